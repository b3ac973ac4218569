"""Reading a Stratal key from a request's headers: bearer ``<id>.<secret>``, or basic id:secret."""

import base64

from starlette.requests import Request

from stratal.identity.keys import Keys
from stratal.identity.model import Principal
from stratal.kernel.errors import Unauthenticated

_HINT = "Send 'Authorization: Bearer <key>' (eval \"$(stratal env)\" sets every client up)."


class Authenticator:
    """The check that every door shares which takes a bearer token or HTTP basic."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def __call__(self, request: Request) -> Principal:
        """Return whose key the request carries. Raises `Unauthenticated` when there is none or it is not good."""
        key_id, secret = key_of(request)
        return await self._keys.authenticate(key_id, secret)


def key_of(request: Request) -> tuple[str, str]:
    """The (id, secret) in the Authorization header. Raises `Unauthenticated` when absent or malformed."""
    header = request.headers.get("authorization", "")
    scheme, _, value = header.partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer" and value:
        key_id, dot, secret = value.partition(".")
        if dot and secret:
            return key_id, secret
        raise Unauthenticated("The bearer token is not a Stratal key.", hint=_HINT, reason="malformed_key")
    if scheme.lower() == "basic" and value:
        try:
            user, colon, password = base64.b64decode(value, validate=True).decode().partition(":")
        except ValueError as error:  # not ASCII, not base64, or not UTF-8 within
            raise Unauthenticated(
                "The basic credentials are not base64.", hint=_HINT, reason="malformed_key"
            ) from error
        if (
            not user and "." in password
        ):  # clients that only know a password (git, some notebooks) send the whole key
            user, _, password = password.partition(".")
        if colon and user and password:
            return user, password
        raise Unauthenticated("The basic credentials are not id:secret.", hint=_HINT, reason="malformed_key")
    raise Unauthenticated("This needs a key.", hint=_HINT, reason="no_credentials")
