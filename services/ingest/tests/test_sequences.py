import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_common.errors import ServiceError
from atlas_ingest.doors.sequences import ProducerSequences, RisingSequences


@given(st.integers(0, 5), st.lists(st.integers(-1, 9), max_size=30))
def test_a_producers_numbers_are_new_once_each_and_in_order(position: int, sent: list[int]) -> None:
    sequences = ProducerSequences("p", position)
    last = position
    for number in sent:
        if 1 <= number <= last + 1:
            is_new = sequences.is_new(number)
            assert is_new == (number == last + 1)
            last += is_new
        else:
            with pytest.raises(ServiceError) as caught:
                sequences.is_new(number)
            assert (caught.value.reason == "SEQUENCE_GAP") == (number > last)


def test_a_gap_names_what_is_expected() -> None:
    with pytest.raises(ServiceError, match="send 5 next") as caught:
        ProducerSequences("p", 4).is_new(9)
    assert caught.value.metadata == {"sequence": "9", "expected": "5"}


def test_numbers_of_nobody_rise() -> None:
    sequences = RisingSequences()
    assert all(sequences.is_new(number) for number in (-3, 0, 7))
    with pytest.raises(ServiceError, match="above 7"):
        sequences.is_new(7)
