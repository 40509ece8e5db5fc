"""What can be wrong with a file, with its columns, and with one cell."""


class UnreadableFileError(Exception):
    """The file cannot be read (any further): it is missing, damaged, or of another format."""


class MappingError(Exception):
    """The columns do not say what is entity, attribute, time and value."""


class CellError(ValueError):
    """One cell that cannot be stored; `reason` is one of atlas.type.v1.ErrorReason."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
