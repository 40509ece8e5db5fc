"""Filters over attributes: what is asked, checked, and as jsonpaths for the database. Pure."""

from atlas_query.filters.catalog import check_filter, unknown_attribute
from atlas_query.filters.cold import ColdMatch, compile_cold_filter
from atlas_query.filters.compile import Match, compile_filter
from atlas_query.filters.tree import (
    AllOf,
    AnyOf,
    Bound,
    Equals,
    Exists,
    Filter,
    Not,
    Operand,
    Range,
    attribute_names,
)

__all__ = [
    "AllOf",
    "AnyOf",
    "Bound",
    "ColdMatch",
    "Equals",
    "Exists",
    "Filter",
    "Match",
    "Not",
    "Operand",
    "Range",
    "attribute_names",
    "check_filter",
    "compile_cold_filter",
    "compile_filter",
    "unknown_attribute",
]
