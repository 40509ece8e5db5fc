"""postgresql.conf as it is written."""

from atlas_devstack.postgres.settings import render, slot_name


def test_a_value_cannot_leave_its_quotes() -> None:
    text = render(
        name="replica-1",
        port=15432,
        fsync=True,
        shared_buffers_mb=64,
        follows=r"host=127.0.0.1 password='it''s\n'",
        syncs_slots=True,
        extra={"work_mem": "1MB'\nfsync = 'off"},
    )
    assert r"primary_conninfo = 'host=127.0.0.1 password=''it''''s\\n'''" in text
    assert "work_mem = '1MB''\nfsync = ''off'" in text
    assert "sync_replication_slots = 'on'" in text


def test_slots_are_named_after_their_replicas() -> None:
    assert slot_name("replica-1") == "replica_1"


def test_a_primary_follows_nobody() -> None:
    text = render(
        name="primary",
        port=1,
        fsync=False,
        shared_buffers_mb=1,
        follows=None,
        syncs_slots=True,
        extra={},
    )
    assert "primary_conninfo" not in text
    assert "sync_replication_slots" not in text
    assert "fsync = 'off'" in text
