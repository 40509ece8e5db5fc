"""What the write path asks of a batch of points, whichever door it came through."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from atlas_ingest.points import Rejections
from atlas_ingest.rules import Rule


@dataclass(frozen=True, slots=True)
class Window:
    """Event times that are accepted, in microseconds since the epoch, both ends included."""

    oldest_us: int
    newest_us: int


class Checked(Protocol):
    """A checked batch: what may be stored of it, and what is wrong with the rest."""

    @property
    def rejections(self) -> Rejections:
        """The points that are refused."""

    @property
    def accepted_count(self) -> int:
        """Points that may be stored."""

    def entity_keys(self) -> set[str]:
        """Of the accepted points."""

    def attribute_names(self) -> set[str]:
        """Of the accepted points."""

    def names_of(self, index: int) -> tuple[str, str]:
        """Entity key and attribute of a point, for people."""

    def rows(
        self,
        batch_no: int,
        tenant_id: int,
        entity_ids: Mapping[str, int],
        attribute_ids: Mapping[str, int],
    ) -> bytes:
        """The accepted points as rows of staging, in encode.POINT_COLUMNS.

        Points of one attribute keep their order; no other order has a meaning.
        """


class Columns(Protocol):
    """A batch of points, column by column."""

    def __len__(self) -> int: ...

    def attribute_names(self) -> set[str]:
        """All that are named, known or not."""

    def new_attributes(self, known: Mapping[str, Rule]) -> dict[str, Rule]:
        """Rules for unknown attributes that could be registered: the first value gives the type."""

    def check(self, rules: Mapping[str, Rule], window: Window) -> Checked:
        """Check every point; of each refused one the first error is reported.

        `rules`: by name, the attributes that points may have.
        """
