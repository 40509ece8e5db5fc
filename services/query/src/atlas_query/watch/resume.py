"""What a watcher goes on from: positions, and the floor of the view that held them. Sealed.

    kind u8 = 2 | length of the seal u16 | seal | freshness token

A freshness token alone begins with its version, 1, and does as well; then the floor has to be
remembered by this process. The seal holds the floor and is bound to the token and its tenant.
"""

import struct
from dataclasses import dataclass
from datetime import datetime

from atlas.type.freshness import Position
from atlas_common import errors
from atlas_common.errors import ServiceError
from atlas_common.token import TokenSigner
from atlas_common.values import datetime_to_us, us_to_datetime

_KIND = 2
_HEADER = struct.Struct(">BH")
_FLOOR = struct.Struct(">q")
_PURPOSE = b"watch "


@dataclass(frozen=True, slots=True)
class Resumption:
    """What was sent already; `floor` None: not told by the token."""

    positions: tuple[Position, ...]
    token: bytes
    floor: datetime | None


def seal(
    signer: TokenSigner, tenant_id: int, positions: tuple[Position, ...], floor: datetime
) -> bytes:
    """The token to go on from."""
    token = signer.seal(tenant_id, positions)
    mark = _FLOOR.pack(datetime_to_us(floor))
    sealed = signer.seal_page(tenant_id, _PURPOSE + token, mark).encode()
    return _HEADER.pack(_KIND, len(sealed)) + sealed + token


def open_token(signer: TokenSigner, tenant_id: int, token: bytes) -> Resumption | None:
    """What the token says; None for "".

    Raises ServiceError INVALID_ARGUMENT: TOKEN_MALFORMED, TOKEN_TAMPERED, TOKEN_WRONG_TENANT.
    """
    if not token:
        return None
    if token[0] != _KIND:
        return Resumption(signer.open(token, tenant_id), token, None)
    if len(token) < _HEADER.size:
        raise _refused("TOKEN_MALFORMED", "no resume_token of a watch")
    _, length = _HEADER.unpack_from(token)
    sealed, fresh = token[_HEADER.size : _HEADER.size + length], token[_HEADER.size + length :]
    positions = signer.open(fresh, tenant_id)  # First: it tells another tenant's from a broken one.
    try:
        mark = signer.open_page(sealed.decode("ascii"), tenant_id, _PURPOSE + fresh)
    except (ServiceError, UnicodeDecodeError):
        raise _refused("TOKEN_TAMPERED", "a resume_token that was not sealed here") from None
    if len(mark) != _FLOOR.size:
        raise _refused("TOKEN_MALFORMED", "no resume_token of a watch")
    return Resumption(positions, fresh, us_to_datetime(_FLOOR.unpack(mark)[0]))


def _refused(reason: str, message: str) -> ServiceError:
    return errors.invalid_argument(reason, message, field="resume_token")
