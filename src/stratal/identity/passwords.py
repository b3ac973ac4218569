"""Passwords and one-time codes: argon2id off the event loop, guesses limited, a code good once.

A guess costs a second factor's worth of memory, so only a few are computed at once and the rest wait their
turn; failures are counted by name and by address, and beyond a handful the next has to wait, whether or not
there is such a person. The counts live in memory: a restart forgives.
"""

import hmac
import secrets
from base64 import b32encode
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, Unpack
from urllib.parse import quote

import anyio
import anyio.to_thread
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

from stratal.kernel.clock import Clock
from stratal.kernel.errors import Busy, Invalid

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

SHORTEST = 10
LONGEST = 256
_AT_ONCE = 2
_WINDOW_MS = 15 * 60 * 1000
_BY_NAME, _BY_ADDRESS = 10, 50
_REMEMBERED = 20_000
_STEP = 30


class Passwords:
    """Hashes and checks passwords."""

    def __init__(self) -> None:
        self._limiter: anyio.CapacityLimiter | None = None
        self._nobody: str | None = None

    async def hash(self, password: str) -> str:
        """Raises `Invalid` for one that is too short or too long."""
        if not SHORTEST <= len(password) <= LONGEST:
            raise Invalid(
                f"A password has {SHORTEST} to {LONGEST} characters.",
                hint="A few words in a row are long, and easy to remember.",
                reason="bad_password",
            )
        return await self._beside(_hash, password)

    async def fits(self, password: str, hashed: str | None) -> bool:
        """Is it the password? With no hash (nobody, or no password) as much work is done, and it is not."""
        if self._nobody is None:
            self._nobody = await self._beside(_hash, secrets.token_hex(16))
        found = await self._beside(_fits, password[: LONGEST + 1], hashed or self._nobody)
        return found and hashed is not None

    async def _beside(self, work: Callable[[Unpack[Ts]], T], *given: *Ts) -> T:
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(_AT_ONCE)
        return await anyio.to_thread.run_sync(work, *given, limiter=self._limiter)


def _hash(password: str) -> str:
    from argon2 import PasswordHasher  # only who signs in with a password pays for its import

    return PasswordHasher().hash(password)


def _fits(password: str, hashed: str) -> bool:
    from argon2 import PasswordHasher
    from argon2.exceptions import Argon2Error, InvalidHash

    try:
        return PasswordHasher().verify(hashed, password)
    except (Argon2Error, InvalidHash):
        return False


class Guesses:
    """Failed guesses of the last quarter of an hour, by name and by address."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failed: dict[str, list[int]] = {}

    def take(self, name: str, address: str) -> None:
        """Count a guess before it is looked at: many at once gain nothing. Raises `Busy` when there were too many."""
        for key, most in ((f"name:{name}", _BY_NAME), (f"address:{address}", _BY_ADDRESS)):
            recent = self._recent(key)
            if len(recent) >= most:
                wait = max(1, (recent[-most] + _WINDOW_MS - self._clock()) // 1000)
                raise Busy(
                    "Too many wrong guesses.",
                    hint=f"Try again in {wait // 60 + 1} min.",
                    reason="too_many_guesses",
                    retry_after_seconds=wait,
                )

        if len(self._failed) > _REMEMBERED:
            self._failed = {key: times for key in list(self._failed) if (times := self._recent(key))}
        for key in (f"name:{name}", f"address:{address}"):
            self._failed.setdefault(key, []).append(self._clock())

    def give_back(self, name: str, address: str) -> None:
        """It was right."""
        for key in (f"name:{name}", f"address:{address}"):
            if self._failed.get(key):
                self._failed[key].pop()

    def forget(self, name: str) -> None:
        self._failed.pop(f"name:{name}", None)

    def _recent(self, key: str) -> list[int]:
        since = self._clock() - _WINDOW_MS
        times = [at for at in self._failed.get(key, ()) if at > since]
        if key in self._failed:
            self._failed[key] = times
        return times


# -- one-time codes (RFC 6238, as authenticator apps make them) --------------------------------------------


def new_totp() -> bytes:
    return secrets.token_bytes(20)


def totp_uri(secret: bytes, name: str, address: str) -> str:
    """What an authenticator app is given."""
    told = b32encode(secret).decode().rstrip("=")
    return f"otpauth://totp/{quote(f'Stratal:{name}')}?secret={told}&issuer=Stratal%20{quote(address)}"


def totp_step(secret: bytes, code: str, now: int, last: int | None) -> int | None:
    """The time step in which `code` is right, at most one off `now` (ms) and behind the `last` used; None: wrong."""
    digits = code.strip().replace(" ", "")
    here = now // 1000 // _STEP
    totp = TOTP(secret, 6, SHA1(), _STEP, enforce_key_length=False)  # noqa: S303
    for step in (here - 1, here, here + 1):
        if hmac.compare_digest(totp.generate(step * _STEP), digits.encode()):
            return step if last is None or step > last else None
    return None
