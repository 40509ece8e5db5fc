"""Requests to addresses that we need not trust: bounded in time and size, and led nowhere else."""

import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from atlas_common.transport import is_this_host

_CHUNK_BYTES = 16 * 1024


@dataclass(frozen=True)
class Request:
    """A GET, or with a body a POST."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)


class BoundedHttp:
    """Redirects are not followed, and no proxy of the environment is used.

    Raises OSError when the authorities cannot be read.
    """

    def __init__(self, ca_file: str | None, timeout_seconds: float, bytes_max: int) -> None:
        self._timeout_seconds = timeout_seconds
        self._bytes_max = bytes_max
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            _NoRedirects(),
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=ca_file)),
        )

    def answer(self, request: Request) -> bytes:
        """The body of a good answer. Blocks.

        Raises OSError, or ValueError for one that is too large, too slow, or none: see `told`.
        """
        try:
            return self._asked(request)
        except urllib.error.HTTPError as error:
            error.close()
            raise
        except TimeoutError:
            raise self._late() from None
        except urllib.error.URLError as error:
            raise (self._late() if isinstance(error.reason, TimeoutError) else error) from None
        except http.client.HTTPException as error:
            raise ValueError(f"no answer in HTTP: {type(error).__name__}") from None

    def _asked(self, request: Request) -> bytes:
        ends = time.monotonic() + self._timeout_seconds
        sent = urllib.request.Request(  # noqa: S310 - the scheme is checked by who configures it.
            request.url, data=request.body, headers=dict(request.headers)
        )
        with self._opener.open(sent, timeout=self._timeout_seconds) as answer:
            body = b""
            # The timeout is of one read: a body that drips would take for ever.
            while chunk := answer.read1(_CHUNK_BYTES):
                body = bounded(body + chunk, self._bytes_max)
                if time.monotonic() > ends:
                    raise TimeoutError
            return body

    def _late(self) -> ValueError:
        return ValueError(f"not there within {self._timeout_seconds:g} s")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None  # The answer 30x becomes an HTTPError.


def bounded(content: bytes, bytes_max: int) -> bytes:
    """The same. Raises ValueError if it is too large."""
    if len(content) > bytes_max:
        raise ValueError(f"larger than {bytes_max} bytes")
    return content


def told(error: Exception) -> str:
    """In words of ours: what an error of the network says may hold what an attacker wrote."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}"
    if isinstance(error, urllib.error.URLError):
        return f"no connection: {type(error.reason).__name__}"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error)


def is_private(url: str, environment: str) -> bool:
    """Whether nobody on the way can read or change it: https, this host, or development."""
    address = urlsplit(url)
    return address.scheme == "https" or environment == "dev" or is_this_host(address.hostname or "")
