"""Strategies for messages of any type, made from their descriptors: well formed and hostile."""

import math
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st

from .siege import ATTACKER

_KINDS = FieldDescriptor
_DEPTH_MAX = 6
_NAMES = st.sampled_from([ATTACKER, "rpm", "pump-1", "note"])  # Some do exist.
_TEXTS = st.one_of(
    _NAMES,
    st.sampled_from(
        [
            *("", "\0", "a\0b", " ", "\n", "%s", "%(x)s", "{}", "\\", "'", '"', "';--", "' OR 1=1"),
            *(
                "e\u0301",
                "\u202etxet",
                "\ufeff",
                "\uffff\U0010ffff",
                "\u0001\u007f",
                "\U0001f469\u200d",
            ),
            *("NaN", "-inf", "1e400", "9" * 400, "null", "{", "[" * 5_000, "a" * 300, "é" * 70_000),
            *("(a+)+$", "(", "(?=a)", "a{1000}{1000}", "../../etc/passwd", "$(id)", "${jndi:x}"),
        ]
    ),
    st.text(max_size=20),
)
_BYTES = st.one_of(
    st.sampled_from([b"", b"\0", b"\xff" * 20, b"\x01" * 64, b"a" * 70_000]), st.binary(max_size=80)
)
_DOUBLES = st.one_of(
    st.sampled_from([0.0, -0.0, 5e-324, 1.8e308, -1.8e308, math.nan, math.inf, -math.inf]),
    st.floats(),
)


def _ints(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    edges = [low, low + 1, -1, 0, 1, 2, 100, 1000, 10_001, 2**31 - 1, high - 1, high]
    return st.one_of(
        st.sampled_from([edge for edge in edges if low <= edge <= high]), st.integers(low, high)
    )


_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    _KINDS.TYPE_STRING: _TEXTS,
    _KINDS.TYPE_BYTES: _BYTES,
    _KINDS.TYPE_BOOL: st.booleans(),
    _KINDS.TYPE_DOUBLE: _DOUBLES,
    _KINDS.TYPE_FLOAT: st.floats(width=32),
    _KINDS.TYPE_ENUM: st.one_of(st.integers(-1, 12), _ints(32, signed=True)),
    **dict.fromkeys(
        (_KINDS.TYPE_INT32, _KINDS.TYPE_SINT32, _KINDS.TYPE_SFIXED32), _ints(32, signed=True)
    ),
    **dict.fromkeys(
        (_KINDS.TYPE_INT64, _KINDS.TYPE_SINT64, _KINDS.TYPE_SFIXED64), _ints(64, signed=True)
    ),
    **dict.fromkeys((_KINDS.TYPE_UINT32, _KINDS.TYPE_FIXED32), _ints(32, signed=False)),
    **dict.fromkeys((_KINDS.TYPE_UINT64, _KINDS.TYPE_FIXED64), _ints(64, signed=False)),
}


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor, depth: int = 0) -> Any:
    """A message of the type; durations and timestamps, too, are any two numbers."""
    message: Any = message_factory.GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if draw(st.integers(0, 3)) == 0 or depth > _DEPTH_MAX:
            continue
        if field.is_repeated:
            _fill(draw, message, field, depth)
        elif field.message_type is not None:
            inner = draw(messages(field.message_type, depth + 1))
            getattr(message, field.name).CopyFrom(inner)
        else:
            setattr(message, field.name, draw(_SCALARS[field.type]))
    return message


def _fill(draw: st.DrawFn, message: Any, field: FieldDescriptor, depth: int) -> None:
    target = getattr(message, field.name)
    elements = draw(st.integers(0, 3))
    # Now and then more of one than any limit allows.
    times = 11_000 if elements and depth < 2 and draw(st.integers(0, 15)) == 15 else 1
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        for _ in range(elements):
            if value.message_type is not None:
                target[draw(_SCALARS[key.type])].CopyFrom(
                    draw(messages(value.message_type, depth + 1))
                )
            else:
                target[draw(_SCALARS[key.type])] = draw(_SCALARS[value.type])
    elif field.message_type is not None:
        made = [draw(messages(field.message_type, depth + 1)) for _ in range(elements)]
        target.extend(made * (times if sum(each.ByteSize() for each in made) < 500 else 1))
    else:
        made = [draw(_SCALARS[field.type]) for _ in range(elements)]
        size = sum(len(each) if isinstance(each, str | bytes) else 8 for each in made)
        target.extend(made * (times if size < 500 else 1))


@st.composite
def malformed(draw: st.DrawFn, descriptor: Descriptor) -> bytes:
    """Bytes that are no message as a rule: noise, or a message with something changed."""
    if draw(st.booleans()):
        return draw(
            st.one_of(
                st.binary(max_size=200),
                st.sampled_from(
                    [
                        b"\xff" * 11,  # A number without end.
                        b"\x0a\xff\xff\xff\xff\x07",  # A length of 2 GiB, ...
                        b"\x0a\x02\xff\xfe",  # ... what is no UTF-8, ...
                        b"\x0b" * 5_000,  # ... groups in groups, ...
                        b"\x0a\x80" * 100,
                        b"\x00\x00",  # ... a field of the number 0.
                    ]
                ),
            )
        )
    data = bytearray(draw(messages(descriptor)).SerializeToString()[:5_000])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)
