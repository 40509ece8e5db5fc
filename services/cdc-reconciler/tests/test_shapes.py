"""How a source's table fits the warehouse's."""

from dataclasses import replace

import pyarrow as pa
import pytest

from atlas_cdc_reconciler.changes import Relation, SourceColumn
from atlas_cdc_reconciler.columns import FieldError
from atlas_cdc_reconciler.sink.shapes import MisfitError, fit
from atlas_cdc_reconciler.source import copy
from atlas_cdc_reconciler.tables import HISTORY, TABLES, ColumnType

TENANTS = TABLES["tenants"]
AS_IT_IS = copy.relation(TENANTS)


def changed(name: str, type_oid: int | None) -> Relation:
    """The tenants with a column of another type."""
    columns = tuple(
        replace(column, type_oid=type_oid) if column.name == name else column
        for column in AS_IT_IS.columns
    )
    return replace(AS_IT_IS, columns=columns)


def test_columns_are_found_wherever_they_are() -> None:
    turned = replace(AS_IT_IS, columns=tuple(reversed(AS_IT_IS.columns)))
    how = fit(turned, TENANTS)
    assert how.place("tenant_id") == len(TENANTS.columns) - 1
    assert not how.casts


@pytest.mark.parametrize("oid", [25, 1043, 1042, 114, None])
def test_types_that_are_sent_alike_are_alike(oid: int | None) -> None:
    assert not fit(changed("display_name", oid), TENANTS).casts


def test_what_does_not_fit_says_which_column() -> None:
    gone = replace(AS_IT_IS, columns=AS_IT_IS.columns[:-1])
    with pytest.raises(MisfitError, match=r"tenants\.created_at is gone at the source"):
        fit(gone, TENANTS)
    with pytest.raises(
        MisfitError, match=r"tenants\.status has another type at the source: oid 23"
    ):
        fit(changed("status", 23), TENANTS)
    columns = (*AS_IT_IS.columns[1:], replace(AS_IT_IS.columns[0], is_key=False))
    other_key = replace(AS_IT_IS, columns=(replace(columns[0], is_key=True), *columns[1:]))
    with pytest.raises(MisfitError, match="another key at the source: key, not tenant_id"):
        fit(other_key, TENANTS)


def test_a_replica_identity_of_all_columns_is_no_other_key() -> None:
    full = tuple(replace(column, is_key=True) for column in AS_IT_IS.columns)
    fit(replace(AS_IT_IS, columns=full), TENANTS)


def test_a_nullable_column_may_go() -> None:
    relation = copy.relation(HISTORY)
    less = tuple(column for column in relation.columns if column.name != "value_json")
    how = fit(replace(relation, columns=less), HISTORY)
    assert len(how.columns) == len(HISTORY.columns) - 1


def test_leniently_values_are_converted_if_nothing_is_lost() -> None:
    how = fit(changed("status", 23), TENANTS, lenient=True)
    assert dict(how.casts) == {"status": ColumnType.TEXT}
    assert how.cast(pa.table({"status": pa.array([7, None], pa.int32())})).to_pylist() == [
        {"status": "7"},
        {"status": None},
    ]
    quality = replace(copy.relation(HISTORY))
    columns = tuple(
        SourceColumn(column.name, 20 if column.name == "quality" else column.type_oid, is_key=False)
        for column in quality.columns
    )
    how = fit(replace(quality, columns=columns), HISTORY, lenient=True)
    with pytest.raises(FieldError, match="quality: no INT2"):
        how.cast(pa.table({"quality": pa.array([40_000], pa.int64())}))


def test_what_a_row_is_found_by_is_never_converted() -> None:
    with pytest.raises(MisfitError, match="tenant_id"):
        fit(changed("tenant_id", 20), TENANTS, lenient=True)


def test_a_column_that_is_added_is_kept_as_what_it_is() -> None:
    known = {
        16: "BOOL",
        23: "INT4",
        1700: "NUMERIC_TEXT",
        1043: "TEXT",
        3802: "JSON",
        2950: "OTHER",
    }
    assert {oid: ColumnType.of(oid).name for oid in known} == known
