"""A window whose rows changed after it was compared is not verified any more.

Sealed windows gain no rows by flushes, but a person may correct or delete old ones. What was
found by comparing is then a thing of the past: the window counts as a mismatch until it is
compared again.
"""

import duckdb

_REACHES_BACK = """
    SELECT coalesce(
        min(epoch_us(ingested_at)) < (SELECT max(compared_through) FROM cdc_verifications), false)
    FROM {rows}
"""
_CHANGED = """
    CREATE OR REPLACE TEMP TABLE changed_windows AS
    SELECT DISTINCT r.tenant_id, epoch_us(r.ingested_at) // w.window_us * w.window_us AS start_us,
        w.window_us
    FROM {rows} AS r
    JOIN cdc_verifications AS v ON v.tenant_id = r.tenant_id
    CROSS JOIN cdc_window_width AS w
    WHERE epoch_us(r.ingested_at) < v.compared_through
"""
_DOUBT = """
    UPDATE cdc_windows SET is_matched = false, doubts = doubts + 1 FROM changed_windows AS c
    WHERE cdc_windows.tenant_id = c.tenant_id AND cdc_windows.start_us = c.start_us
"""
# A window without rows is not remembered; one that got some must be.
_REMEMBER = """
    INSERT INTO cdc_windows
    SELECT c.tenant_id, c.start_us, c.start_us + c.window_us, 0, 0, 0, 0, 0, 0, false, 0, 1
    FROM changed_windows AS c
    WHERE NOT EXISTS (SELECT 1 FROM cdc_windows AS w
        WHERE w.tenant_id = c.tenant_id AND w.start_us = c.start_us)
"""


def doubt_windows(connection: duckdb.DuckDBPyConnection, rows: str) -> None:
    """Mark the windows of these rows, a relation with tenant_id and ingested_at, as to be compared.

    Within the transaction that changes the rows.
    """
    # Of new rows hardly any lies before what was compared: for them this is all there is to do.
    reaches_back = connection.execute(_REACHES_BACK.format(rows=rows)).fetchone()
    if reaches_back != (True,):
        return
    for statement in (_CHANGED, _DOUBT, _REMEMBER):
        connection.execute(statement.format(rows=rows))
