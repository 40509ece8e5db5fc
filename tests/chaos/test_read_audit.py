"""The audit of reads finds every kind of violation, and nothing where there is none."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from .read_audit import Answer, Level, ReadAudit, Shown, Subject

PUMP = Subject("acme", "pump-1")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SOUND = Answer(
    Level.EVENTUAL,
    asked_at=105.5,
    answered_at=105.6,
    endpoint="replica-1",
    lag_seconds=1.0,
    as_of=NOON + timedelta(seconds=4.5),
    shown=[Shown(PUMP, frozenset({4}), held=3)],
    bound_seconds=2.0,
)


@pytest.fixture
def audit() -> ReadAudit:
    """Version n of acme's and of globex' pump was committed n seconds after noon; that was 100."""
    audit = ReadAudit({"acme": "canary-a", "globex": "canary-g"})
    for subject in (PUMP, Subject("globex", "pump-1")):
        for second in range(1, 7):
            assert audit.truth(subject).begin() == second
            audit.truth(subject).committed(100.0 + second, NOON + timedelta(seconds=second))
    return audit


def versions(*numbers: int, held: int = 0, tenant: str = "acme") -> list[Shown]:
    return [Shown(Subject(tenant, "pump-1"), frozenset(numbers), held)]


def test_a_sound_answer_is_sound(audit: ReadAudit) -> None:
    audit.judge(SOUND)
    audit.judge(replace(SOUND, shown=versions(4, tenant="globex")))
    audit.judge(replace(SOUND, level=Level.STRONG, shown=versions(5), lag_seconds=0.0))
    audit.judge(replace(SOUND, level=Level.TOKEN, lag_seconds=float("inf"), bound_seconds=None))
    audit.judge_bytes("acme", b"canary-a", b"")
    audit.assert_sound()
    assert audit.answers["replica-1"] == 4


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (replace(SOUND, shown=versions(3)), "longer ago than the stated lag"),
        (replace(SOUND, shown=versions(3), lag_seconds=2.6), "the lag exceeds 2.0 s"),
        (replace(SOUND, shown=versions(2), lag_seconds=2.6), "longer ago than the bound"),
        (replace(SOUND, shown=versions(3), lag_seconds=1.9), "committed before as_of"),
        (replace(SOUND, shown=versions(4, held=5)), "its token holds that"),
        (replace(SOUND, shown=versions(4, 5)), "is torn"),
        (replace(SOUND, shown=versions(7)), "never written"),
        (replace(SOUND, shown=versions()), "has 0 and not 4"),
        (replace(SOUND, level=Level.STRONG, as_of=None), "which is STRONG"),
        (replace(SOUND, shown=versions(3, tenant="globex")), "longer ago than the stated lag"),
    ],
)
def test_a_planted_violation_is_found(audit: ReadAudit, answer: Answer, why: str) -> None:
    audit.judge(answer)
    with pytest.raises(AssertionError, match=why):
        audit.assert_sound()


def test_a_strong_answer_that_goes_back_is_found_even_of_what_nobody_knew_as_committed(
    audit: ReadAudit,
) -> None:
    audit.truth(PUMP).begin()  # Never answered.
    newest = replace(SOUND, level=Level.STRONG, lag_seconds=0.0, shown=versions(7))
    back = replace(newest, asked_at=110.0, answered_at=110.1, shown=versions(6))
    beside = replace(newest, asked_at=105.55, shown=versions(6))  # At the same time: either.
    audit.judge(newest)
    audit.judge(beside)
    audit.assert_sound()
    audit.judge(back)
    with pytest.raises(AssertionError, match="an earlier STRONG answer had that"):
        audit.assert_sound()


def test_another_tenants_canary_is_found_in_any_bytes(audit: ReadAudit) -> None:
    audit.judge_bytes("acme", b"canary-a", b"an error that tells of canary-g")
    with pytest.raises(AssertionError, match="acme was sent data of globex"):
        audit.assert_sound()


def test_many_violations_are_counted_and_a_few_kept(audit: ReadAudit) -> None:
    for _ in range(100):
        audit.judge(replace(SOUND, shown=versions(7)))
    assert (audit.violation_count, len(audit.violations)) == (100, 5)
