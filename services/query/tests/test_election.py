from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from atlas_query.election import Election, Identity

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ("primary", "replica-1", "replica-2")


def said(timeline: int | None, server: int = 1, system: int = 7) -> Identity:
    return Identity(system, timeline, EPOCH + timedelta(seconds=server))


def standby(server: int = 2) -> Identity:
    return said(None, server)


def held(**identities: Identity | None) -> Election:
    """All asked once; "replica_1" is replica-1, None does not answer."""
    election = Election(NAMES)
    tell(election, **{name.replace("-", "_"): None for name in NAMES} | identities)
    return election


def tell(election: Election, **identities: Identity | None) -> None:
    for key, identity in identities.items():
        name = key.replace("_", "-")
        if identity is None:
            election.missed(name)
        else:
            election.saw(name, identity)


def test_nobody_is_elected_before_all_were_asked() -> None:
    election = Election(NAMES)
    election.saw("primary", said(1))
    election.saw("replica-1", standby())
    assert (election.primary, election.is_held) == (None, False)
    election.missed("replica-2")
    assert (election.primary, election.timeline) == ("primary", 1)
    assert not election.objection("replica-1")


def test_a_promoted_replica_is_the_primary_and_no_replica() -> None:
    election = held(primary=said(1), replica_1=standby(2), replica_2=standby(3))
    tell(election, primary=None, replica_1=said(2, 2))
    assert (election.primary, election.timeline) == ("replica-1", 2)
    assert not election.objection("replica-2")
    history = election.history
    assert history is not None
    assert (history.primary, history.timeline) == ("replica-1", 2)


def test_of_two_that_claim_to_be_it_the_greater_timeline_wins_whoever_answers() -> None:
    election = held(primary=said(1), replica_1=said(2, 2), replica_2=standby(3))
    assert election.primary == "replica-1"
    assert "timeline 1 has ended, 2 goes on" in election.objection("primary")
    tell(election, replica_1=None, primary=said(1))
    assert election.primary == "replica-1"  # Away, and still the only one that may be believed.


def test_a_process_that_saw_the_greater_timeline_once_never_goes_back() -> None:
    election = held(primary=said(1), replica_1=said(2, 2))
    election.leave("replica-1")
    tell(election, primary=said(1))
    assert election.primary is None
    assert "none that answers is on timeline 2" in election.why_none


def test_a_primary_that_says_it_is_in_recovery_is_none() -> None:
    election = held(primary=said(3), replica_1=standby(2))
    tell(election, primary=standby(1))
    assert election.primary is None
    assert "in recovery" in election.objection("primary")
    tell(election, replica_1=said(3, 2))  # Another of the same timeline, as with shared storage.
    assert election.primary == "replica-1"


def test_a_primary_that_is_away_stays_it_on_the_same_timeline() -> None:
    election = held(primary=said(2), replica_1=standby(2))
    tell(election, primary=None, replica_1=said(2, 2))
    assert election.primary == "primary"
    assert election.objection("replica-1") == "it is not in recovery, on timeline 2"


def test_of_two_promoted_apart_from_each_other_none_is_believed() -> None:
    election = held(primary=None, replica_1=said(2, 2), replica_2=said(2, 3))
    assert election.primary is None
    assert "replica-1 and replica-2 both claim to be it, on timeline 2" in election.why_none


def test_two_names_of_one_server_are_one_server() -> None:
    election = held(primary=said(2, 9), replica_1=said(2, 9), replica_2=standby(3))
    assert election.primary == "primary"
    assert election.objection("replica-1") == "it is the same server as primary"


def test_a_server_of_another_cluster_is_no_server_of_ours() -> None:
    election = held(primary=said(1), replica_1=said(9, 2, system=8), replica_2=standby(3))
    assert (election.primary, election.timeline) == ("primary", 1)
    assert "another cluster" in election.objection("replica-1")


def test_a_refused_server_is_taken_when_it_is_seen_again() -> None:
    election = held(primary=said(1), replica_2=standby(3))
    election.refuse("replica-1", "too many rights")
    assert election.objection("replica-1") == "too many rights"
    tell(election, replica_1=standby(2))
    assert not election.objection("replica-1")


answers = st.tuples(
    st.sampled_from(NAMES), st.one_of(st.none(), st.sampled_from([None, 1, 2, 3]), st.just("away"))
)


@given(st.lists(answers, max_size=40))
def test_the_timeline_only_rises_and_the_primary_is_always_on_it(
    told: list[tuple[str, int | str | None]],
) -> None:
    election = held()
    greatest = 0
    last: dict[str, int | None] = {}
    for name, timeline in told:
        if isinstance(timeline, str):
            election.missed(name)
        else:
            election.saw(name, said(timeline, NAMES.index(name)))
            last[name] = timeline
            greatest = max(greatest, timeline or 0)
        assert election.timeline == greatest
        if election.primary is not None:
            assert last[election.primary] == greatest
