"""Every call of every service with messages made to hurt it, and bytes that are none.

ATLAS_FUZZ_EXAMPLES (20) is how many of both kinds each call gets.
"""

import os

import pytest
from google.protobuf.descriptor import MethodDescriptor
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from .fortress import METHODS
from .hostile_messages import malformed, messages
from .siege import Siege

_EXAMPLES = int(os.environ.get("ATLAS_FUZZ_EXAMPLES", "20"))
_SECONDS_MAX = 20.0
_STREAM_SECONDS_MAX = 0.5
"""A stream may rightly go on for ever."""

every_method = pytest.mark.parametrize(
    ("service", "method"), METHODS, ids=[method.full_name for _, method in METHODS]
)
# Each try is a call to a real service: shrinking a failure takes minutes.
fuzz = settings(
    max_examples=_EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@every_method
@pytest.mark.timeout(120 + 10 * _EXAMPLES)
def test_no_message_breaks_a_call(besieged: Siege, service: str, method: MethodDescriptor) -> None:
    is_stream = method.client_streaming or method.server_streaming
    seconds = _STREAM_SECONDS_MAX if is_stream else _SECONDS_MAX
    type_ = method.input_type
    encoded = messages(type_).map(lambda message: message.SerializeToString())

    @fuzz
    @given(st.lists(encoded, min_size=1, max_size=3))
    def well_formed(sent: list[bytes]) -> None:
        besieged.attack(service, method, sent, seconds)

    @fuzz
    @given(st.lists(malformed(type_), min_size=1, max_size=2))
    def no_messages(sent: list[bytes]) -> None:
        besieged.attack(service, method, sent, seconds)

    with besieged.others_going_on():
        well_formed()
        no_messages()


def test_both_refusals_and_answers_were_seen(besieged: Siege) -> None:
    """Were all refused at the door, nothing would have been tried."""
    assert besieged.seen["INVALID_ARGUMENT"] > 0
    assert besieged.seen["OK"] > 0
