from hypothesis import given
from hypothesis import strategies as st

from atlas_ingest.doors.window import Credit, Window

FULL = Credit(64, 100_000)

fills = st.floats(0, 2, allow_nan=False)
fulls = st.builds(Credit, st.integers(1, 4096), st.integers(1, 10_000_000))


def test_a_window_is_full_by_batches_or_by_points() -> None:
    window = Window(Credit(2, 100))
    window.add(60)
    assert window.fits(40)
    assert not window.fits(41)
    window.add(40)
    assert window.is_full
    window.remove(60)
    assert window.fits(60)


def test_one_batch_fits_whatever_its_size() -> None:
    window = Window(Credit(2, 100))
    assert window.fits(10_000)
    window.add(10_000)
    assert window.is_full


def test_with_half_of_the_memory_free_the_window_is_whole() -> None:
    window = Window(FULL)
    assert not window.grant(0.5)
    assert window.credit == FULL


def test_a_window_shrinks_at_once_and_grows_step_by_step() -> None:
    window = Window(FULL)
    assert window.shrink(1.0)
    least = window.credit
    assert least == Credit(2, 3125)
    assert not window.shrink(0.0)
    grown = []
    while window.grant(0.0):
        grown.append(window.credit.points)
    assert grown == [6_250, 12_500, 25_000, 50_000, 100_000]
    assert window.credit == FULL


@given(fulls, st.lists(fills, max_size=20))
def test_credit_stays_within_its_bounds_and_recovers(full: Credit, seen: list[float]) -> None:
    window = Window(full)
    for fill in seen:
        before = window.credit
        changed = window.grant(fill)
        assert changed == (window.credit != before)
        assert 1 <= window.credit.batches <= full.batches
        assert 1 <= window.credit.points <= full.points
    for _ in range(40):
        window.grant(0.0)
    assert window.credit == full


@given(fulls, fills, fills)
def test_a_fuller_memory_never_gives_more_credit(full: Credit, one: float, two: float) -> None:
    less, more = sorted((one, two))
    roomy, tight = Window(full), Window(full)
    roomy.grant(less)
    tight.grant(more)
    assert tight.credit.points <= roomy.credit.points
    assert tight.credit.batches <= roomy.credit.batches


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 200)), max_size=60))
def test_what_is_taken_on_never_exceeds_the_credit_but_by_a_lone_batch(
    steps: list[tuple[bool, int]],
) -> None:
    window = Window(Credit(4, 100))
    held: list[int] = []
    for takes, points in steps:
        if takes and window.fits(points):
            window.add(points)
            held.append(points)
        elif held:
            window.remove(held.pop(0))
        assert (window.batches, window.points) == (len(held), sum(held))
        assert len(held) <= 4
        assert sum(held) <= 100 or len(held) == 1
