"""What the console's sign-in pages need of people's accounts, told in the console's own words."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from stratal.console.native import Refused
from stratal.identity.federation.service import Federation
from stratal.identity.room import Folk
from stratal.kernel.errors import StratalError, Unauthenticated

P = ParamSpec("P")
T = TypeVar("T")


class Accounts:
    """Signing in and joining. What is refused is raised as the console's `Refused`."""

    def __init__(self, folk: Folk, federation: Federation | None = None) -> None:
        self._folk = folk
        self._federation = federation

    @property
    def federated(self) -> bool:
        """Can people sign in with an identity provider?"""
        return self._federation is not None

    async def begin(self, redirect_uri: str, target: str) -> tuple[str, str]:
        """Where the browser goes to sign in there, and what it keeps until it is back."""
        begun = await _told(self._provided().begin)(redirect_uri, target)
        return begun.address, begun.browser

    async def finish(self, state: str, code: str, browser: str, address: str, agent: str) -> tuple[str, str]:
        """The session's token, and where the person wanted to go."""
        return await _told(self._provided().finish)(state, code, browser, address=address, agent=agent)

    def _provided(self) -> Federation:
        if self._federation is None:
            raise Refused(404, "no_provider", "People do not sign in with a provider here.")
        return self._federation

    async def by_link(self, token: str, address: str, agent: str) -> str | None:
        """Spend a one-time link; None for one that opens nothing."""
        try:
            return await self._folk.sessions.sign_in(token, address=address, agent=agent)
        except Unauthenticated:
            return None

    async def by_password(self, name: str, password: str, code: str, address: str, agent: str) -> str:
        return await _told(self._folk.people.sign_in)(name, password, code, address=address, agent=agent)

    async def invitation(self, token: str) -> tuple[str, str, str]:
        """The project, the role and who invites."""
        found = await _told(self._folk.members.invitation)(token)
        return found.project, found.role.value, found.created_by.partition(":")[2]

    async def accept(self, token: str, name: str, password: str, address: str, agent: str) -> str:
        """Make an account and join; the session's token."""
        return await _told(self._folk.members.accept)(token, name, password, address=address, agent=agent)

    async def leave(self, token: str) -> None:
        await self._folk.sessions.sign_out(token)


def _told(call: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    async def told(*given: P.args, **named: P.kwargs) -> T:
        try:
            return await call(*given, **named)
        except StratalError as error:
            raise Refused(error.status, error.reason, error.message, error.hint) from error

    return told
