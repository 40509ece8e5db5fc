"""Which calls get a line in the log."""

from typing import Any

import grpc

from atlas_common.rpc.access_log import AccessLog
from atlas_common.rpc.scope import Call

NO_CONTEXT: Any = None


def call(code: grpc.StatusCode = grpc.StatusCode.OK) -> Call:
    return Call(
        "/a.B/C", request_streaming=False, response_streaming=False, metadata=(),
        context=NO_CONTEXT, code=code,
    )  # fmt: skip


def test_calls_beyond_the_rate_are_counted_and_the_next_line_says_how_many() -> None:
    log = AccessLog(2)
    assert [log.admits(call(), 100.0) for _ in range(5)] == [True, True, False, False, False]
    assert log.admits(call(), 100.5)  # Two a second: one more after half of it.
    assert log.take_left_out() == 3
    assert log.take_left_out() is None


def test_an_idle_time_saves_up_no_more_than_a_second() -> None:
    log = AccessLog(2)
    assert log.admits(call(), 100.0)
    assert [log.admits(call(), 10_000.0) for _ in range(3)] == [True, True, False]


def test_a_call_that_failed_always_gets_one() -> None:
    log = AccessLog(0)
    assert not log.admits(call(), 1.0)
    assert log.admits(call(grpc.StatusCode.CANCELLED), 1.0)


def test_calls_beyond_a_quota_are_as_many_lines_as_those_that_succeed() -> None:
    log = AccessLog(1)
    refused = call(grpc.StatusCode.RESOURCE_EXHAUSTED)
    refused.reason = "QUOTA_EXCEEDED"
    assert [log.admits(refused, 1.0) for _ in range(3)] == [True, False, False]
    refused.reason = "OVERLOADED"
    assert log.admits(refused, 1.0)
