"""Requests to addresses that people typed, so that none of them reaches what only this machine may reach.

The address that a name resolves to is checked where the connection is made, and that very address is connected
to: a name that answers differently the second time gains nothing. Redirects are not followed, no proxy of the
environment is used, and of the answer only the status is looked at.
"""

import ipaddress
import socket
import ssl
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import anyio.to_thread
import httpcore

from stratal.kernel.errors import Invalid, Unavailable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

SECONDS = 10.0
_EMBEDDING = ipaddress.ip_network("64:ff9b::/96")
"""The network whose last 32 bits are an IPv4 address (RFC 6052)."""
_COMPATIBLE = ipaddress.ip_network("::/96")
"""IPv4 addresses as IPv6 once wrote them (RFC 4291 §2.5.5.1), and the loopback one: ``::7f00:1`` is 127.0.0.1."""


_UNICAST = ipaddress.ip_network("2000::/3")
"""All that is given out so far (RFC 4291 §2.4). What lies outside is for one site, one link, or translated (RFC 8215)."""


class Forbidden(Exception):
    """The address is none that may be asked."""


def check_url(url: str) -> str:
    """Raises `Invalid` for what is no plain http or https address of a host."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), -1
    wrong = (
        len(url) > 2000
        or parts.scheme not in {"http", "https"}
        or not parts.hostname
        or port in {-1, 0}
        or parts.username is not None
        or parts.password is not None
        or parts.fragment
        or any(ord(letter) <= 0x20 or ord(letter) > 0x7E or letter == "\\" for letter in url)
    )
    if wrong:
        raise Invalid(
            "A webhook's address is http:// or https:// with a host, without a user.", reason="bad_url"
        )
    return url


def allowed(address: str, networks: Iterable[Network] = ()) -> bool:
    """May this address be connected to: a public one, or one of the given networks?"""
    found: Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.sixtofour is not None or found.teredo is not None:
            return False  # tunnels to addresses that nobody looked at
        if found in _COMPATIBLE:
            return False
        inside = found.ipv4_mapped
        if inside is None and found in _EMBEDDING:
            inside = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inside is not None:
            return allowed(str(inside), networks)
        if found not in _UNICAST and not any(found in one for one in networks if one.version == 6):
            return False
    if any(found.version == network.version and found in network for network in networks):
        return True
    return found.is_global and not found.is_multicast


def check_public(url: str, networks: Iterable[Network] = ()) -> str:
    """As `check_url`; raises also for a literal address, or a name, that can only be this machine or a neighbour.

    What other names resolve to is looked at when they are asked.
    """
    host = (urlsplit(check_url(url)).hostname or "").rstrip(".").lower()
    try:
        fine = allowed(host, networks)
    except ValueError:  # a name
        fine = bool(networks) or not (
            host == "localhost" or host.endswith((".localhost", ".local", ".internal"))
        )
    if not fine:
        raise Invalid(
            "A webhook reaches public addresses only.",
            hint="An admin names networks of your own with STRATAL_WEBHOOK_NETWORKS.",
            reason="bad_url",
        )
    return url


class _Checked(httpcore.AsyncNetworkBackend):
    """Connects to an address that was looked at, never to a name."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = networks
        self._plain = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's own signature)
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            found = await anyio.to_thread.run_sync(
                lambda: socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
            )
        except (OSError, UnicodeError) as error:  # the latter: a name with an empty or too long part
            raise httpcore.ConnectError(f"{host} has no address") from error
        addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
        if not addresses or not all(allowed(one, self._networks) for one in addresses):
            raise Forbidden(f"{host} is not a public address")
        return await self._plain.connect_tcp(addresses[0], port, timeout, local_address, socket_options)

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise Forbidden("sockets are not asked")

    async def sleep(self, seconds: float) -> None:
        await self._plain.sleep(seconds)


class Outgoing:
    """POSTs. `networks` are those that may be asked although they are not public."""

    def __init__(self, networks: Sequence[Network] = ()) -> None:
        self._networks = networks

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """The answer's status, whatever it is. Raises `Forbidden`, `Unavailable` when there is none."""
        asked = [
            (b"Host", urlsplit(url).netloc.encode()),
            *((k.encode(), v.encode()) for k, v in headers.items()),
        ]
        limit = {"connect": SECONDS, "read": SECONDS, "write": SECONDS, "pool": SECONDS}
        pool = httpcore.AsyncConnectionPool(
            ssl_context=self._tls,
            max_connections=1,
            http1=True,
            network_backend=_Checked(self._networks),
        )
        try:
            with anyio.fail_after(2 * SECONDS):
                async with (
                    pool,
                    pool.stream(
                        "POST", url, headers=asked, content=body, extensions={"timeout": limit}
                    ) as answer,
                ):
                    return int(answer.status)
        except (
            httpcore.NetworkError,
            httpcore.TimeoutException,
            httpcore.ProtocolError,
            TimeoutError,
        ) as error:
            raise Unavailable(f"{type(error).__name__}: {error}"[:300]) from error


def networks_of(text: str) -> tuple[Network, ...]:
    """``10.0.0.0/8, fd00::/8`` as networks. Raises `ValueError`."""
    return tuple(ipaddress.ip_network(one.strip()) for one in text.split(",") if one.strip())
