"""Points that came one by one, as messages: of Write, WriteStream, queues and topics."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from atlas_ingest import encode, validate
from atlas_ingest.columns import Window
from atlas_ingest.points import PointColumns, Rejections
from atlas_ingest.rules import Rule


class RowPoints(PointColumns):
    """Points in lists of Python values."""

    __slots__ = ()

    @classmethod
    def empty(cls) -> Self:
        """No points: lists to be filled."""
        return cls([], [], [], [], [], [])

    def attribute_names(self) -> set[str]:
        """All that are named, known or not."""
        return set(self.attributes)

    def new_attributes(self, known: Mapping[str, Rule]) -> dict[str, Rule]:
        """Rules for the unknown attributes that could be registered."""
        return validate.new_attributes(self, known)

    def check(self, rules: Mapping[str, Rule], window: Window) -> "RowChecked":
        """Check every point."""
        return RowChecked(self, validate.validate(self, rules, window))


@dataclass(frozen=True, slots=True)
class RowChecked:
    """Checked points."""

    columns: PointColumns
    validated: validate.Validated

    @property
    def rejections(self) -> Rejections:
        """The points that are refused."""
        return self.validated.rejections

    @property
    def accepted_count(self) -> int:
        """Points that may be stored."""
        return self.validated.accepted_count

    def entity_keys(self) -> set[str]:
        """Of the accepted points."""
        return self._used(self.columns.entity_keys)

    def attribute_names(self) -> set[str]:
        """Of the accepted points."""
        return self._used(self.columns.attributes)

    def names_of(self, index: int) -> tuple[str, str]:
        """Entity key and attribute of a point."""
        return self.columns.entity_keys[index], self.columns.attributes[index]

    def rows(
        self,
        batch_no: int,
        tenant_id: int,
        entity_ids: Mapping[str, int],
        attribute_ids: Mapping[str, int],
    ) -> bytes:
        """The accepted points as rows of staging, type by type: an attribute has one type."""
        keys, names = self.columns.entity_keys, self.columns.attributes
        times_us, qualities = self.columns.event_times_us, self.columns.qualities
        values = self.validated.values
        parts: list[bytes] = []
        for data_type, indexes in self.validated.accepted.items():
            pack = encode.row_packer(data_type, batch_no, tenant_id)
            parts += [
                pack(
                    entity_ids[keys[i]],
                    attribute_ids[names[i]],
                    times_us[i],
                    qualities[i],
                    values[i],
                )
                for i in indexes
            ]
        return b"".join(parts)

    def _used(self, names: list[str]) -> set[str]:
        if not self.rejections.count:
            return set(names)
        return {names[i] for indexes in self.validated.accepted.values() for i in indexes}
