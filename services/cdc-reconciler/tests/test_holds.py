"""What waits behind a dead letter, and what does not."""

from atlas_cdc_reconciler.sink.holds import Holds


def test_with_a_key_everything_of_the_row_waits_and_nothing_else() -> None:
    holds = Holds.none().table("entities")
    assert holds.is_empty
    holds.join(["[1,7]"], is_insert=True)
    assert holds.stops(["[1,7]"], is_insert=True)
    assert holds.stops(["[1,7]"], is_insert=False)
    assert not holds.stops(["[2,7]"], is_insert=False)


def test_inserts_of_the_history_do_not_wait_for_inserts() -> None:
    holds = Holds.none().table("entity_values_ts")
    chain = holds.join(["[1,7,1,0,0]"], is_insert=True)
    assert not holds.stops(["[1,7,1,0,0]"], is_insert=True)
    assert holds.stops(["[1,7,1,0,0]"], is_insert=False)
    assert holds.join(["[1,7,1,0,0]"], is_insert=False) is chain
    assert chain.stops_inserts
    assert holds.stops(["[1,7,1,0,0]"], is_insert=True)
    assert not holds.stops(["[2,7,1,0,0]"], is_insert=True)


def test_a_change_of_two_rows_joins_their_chains() -> None:
    holds = Holds.none().table("entities")
    first = holds.join(["[1,1]"], is_insert=False)
    second = holds.join(["[1,2]"], is_insert=False)
    first.chain_id, second.chain_id = 4, 5
    assert holds.join(["[1,1]", "[1,2]"], is_insert=False) is first
    assert holds.join(["[1,2]"], is_insert=False) is first
    assert holds.merges == [(first, second)]


def test_letters_without_a_row_stop_nothing_in_the_history() -> None:
    holds = Holds.none().table("entity_values_ts")
    assert holds.join([], is_insert=True) is not holds.join([], is_insert=True)
    assert holds.is_empty
