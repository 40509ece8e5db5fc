"""Hypothesis strategies for positions and tokens."""

from hypothesis import strategies as st

from atlas.type.freshness import EPOCH_MAX, LANE_MAX, SEQUENCE_MAX, Position
from atlas_common.token import TokenSigner

KEYS = {1: b"k" * 16, 7: b"q" * 32}
SIGNER = TokenSigner(KEYS, active=1)
OTHER_KEY = TokenSigner(KEYS, active=7)

tenant_ids = st.integers(1, 2**31 - 1)
# Few lanes and small numbers meet; large ones test the encoding.
lanes = st.one_of(st.integers(0, 4), st.integers(0, LANE_MAX))
positions = st.builds(
    Position,
    lane=lanes,
    epoch=st.one_of(st.integers(0, 3), st.integers(0, EPOCH_MAX)),
    sequence=st.one_of(st.integers(0, 3), st.integers(0, SEQUENCE_MAX)),
)
position_lists = st.lists(positions, max_size=12)
signers = st.sampled_from([SIGNER, OTHER_KEY])


@st.composite
def tokens(draw: st.DrawFn, tenant_id: int = 5) -> bytes:
    """A sealed token of this tenant, perhaps empty, of either key."""
    return draw(signers).seal(tenant_id, draw(position_lists))
