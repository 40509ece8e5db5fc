"""The names of sources."""

import re
from dataclasses import dataclass
from enum import StrEnum

FORMS = "file:/absolute/path, vault:path/in/vault or aws-secretsmanager:name-or-ARN"
_CHARS_MAX = 2048


class Kind(StrEnum):
    """What keeps the secret."""

    FILE = "file"
    VAULT = "vault"
    AWS = "aws-secretsmanager"


# Nothing that would lead elsewhere within an address, or end it.
_FORMS = {
    Kind.FILE: re.compile(r"/[^\0]+"),
    Kind.VAULT: re.compile(r"[\w@=+-][\w.@=+-]*(/[\w@=+-][\w.@=+-]*)+", re.ASCII),
    Kind.AWS: re.compile(r"[\w/+=.@:-]+", re.ASCII),
}


@dataclass(frozen=True)
class SourceName:
    """Which secret of which kind of source."""

    kind: Kind
    rest: str

    @classmethod
    def parse(cls, named: str) -> "SourceName":
        """Raises ValueError if it names none."""
        kind, _, rest = named.partition(":")
        if (
            kind not in set(Kind)
            or len(rest) > _CHARS_MAX
            or not _FORMS[Kind(kind)].fullmatch(rest)
        ):
            # Not repeated: somebody may have put the secret itself here.
            raise ValueError(f"not a source of a secret: give {FORMS}")
        return cls(Kind(kind), rest)

    def __str__(self) -> str:
        return f"{self.kind}:{self.rest}"


def check_source(named: str | None) -> str | None:
    """A validator of settings: it names a source. Raises ValueError."""
    if named is not None:
        SourceName.parse(named)
    return named
