"""The warehouse's dead letters: changes that could not be applied."""

from atlas_client.letters.admin import LetterAdmin
from atlas_client.letters.records import (
    Books,
    BooksReport,
    DeadLetter,
    LetterAction,
    LetterClass,
    ReplayResult,
)

__all__ = [
    "Books",
    "BooksReport",
    "DeadLetter",
    "LetterAction",
    "LetterAdmin",
    "LetterClass",
    "ReplayResult",
]
