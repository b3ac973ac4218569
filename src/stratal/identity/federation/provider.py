"""Talking to the provider: its own description, the exchange of a code, the renewal of a token, who somebody is."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import httpx

from stratal.identity.federation.model import Trust
from stratal.kernel.errors import Internal, Unauthenticated, Unavailable, Unsupported

_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Signatures by a key pair: with others the provider and we would share the key."""
_SECONDS = 10.0
_KNOWN_SECONDS = 600.0
_LEEWAY = 60


class Gone(Exception):
    """The provider refuses this person: removed, disabled, or signed out everywhere."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a provider said of somebody. `refresh_token` is None where it gave none (again)."""

    subject: str
    claims: Mapping[str, Any]
    refresh_token: str | None


class Provider:
    """`transport` is for tests."""

    def __init__(self, trust: Trust, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._trust = trust
        self._transport = transport
        self._known: dict[str, Any] = {}
        self._keys: dict[str, Any] = {}
        self._known_at = 0.0
        self._lock = asyncio.Lock()

    async def address(self, redirect_uri: str, state: str, nonce: str, challenge: str) -> str:
        """Where a browser is sent to sign in."""
        known = await self._description()
        asked = {
            "response_type": "code",
            "client_id": self._trust.client_id,
            "redirect_uri": redirect_uri,
            "scope": self._trust.scopes,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        at = str(known["authorization_endpoint"])
        return f"{at}{'&' if '?' in at else '?'}{urlencode(asked)}"

    async def exchange(self, code: str, redirect_uri: str, verifier: str, nonce: str) -> Told:
        """Who brought this code. Raises `Unauthenticated`."""
        asked = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        try:
            token = await self._token(asked)
        except Gone as error:
            raise Unauthenticated(f"The provider refused the sign-in: {error}.", hint="Try again.") from error
        claims = await self._proven(str(token.get("id_token", "")), nonce)
        return await self._told(token, str(claims["sub"]), claims)

    async def renew(self, refresh_token: str, subject: str) -> Told:
        """Ask again. Raises `Gone`, `Unavailable` when the provider does not answer."""
        token = await self._token({"grant_type": "refresh_token", "refresh_token": refresh_token})
        return await self._told(token, subject, {})

    async def _told(self, token: Mapping[str, Any], subject: str, claims: Mapping[str, Any]) -> Told:
        """What the token says, with what the provider's userinfo adds."""
        known = await self._description()
        more: Mapping[str, Any] = {}
        if "userinfo_endpoint" in known:
            headers = {"Authorization": f"Bearer {token['access_token']}"}
            answer = await self._ask("GET", str(known["userinfo_endpoint"]), headers=headers)
            if answer.status_code in {401, 403}:
                raise Gone("it does not know this person any more")
            more = self._json(answer)
            if more.get("sub") != subject:
                raise Gone("it speaks of somebody else")
        renewed = token.get("refresh_token")
        return Told(subject, {**claims, **more}, str(renewed) if renewed else None)

    async def _token(self, asked: Mapping[str, str]) -> Mapping[str, Any]:
        known = await self._description()
        secret = (quote(self._trust.client_id, safe=""), quote(self._trust.client_secret, safe=""))
        answer = await self._ask("POST", str(known["token_endpoint"]), data=dict(asked), auth=secret)
        if answer.status_code in {400, 401, 403}:
            try:
                said = str(answer.json().get("error", answer.status_code))
            except ValueError:
                said = str(answer.status_code)
            if said in {"invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope"}:
                raise Unavailable(f"The provider does not take this instance as its client: {said}.")
            raise Gone(said[:100])
        told = self._json(answer)
        if not isinstance(told.get("access_token"), str):
            raise Unavailable("The provider's answer has no token.")
        return told

    async def _proven(self, token: str, nonce: str) -> Mapping[str, Any]:
        """The claims of an ID token that was signed by the provider, for us, now, for this sign-in."""
        try:
            from joserfc import jwt
            from joserfc.errors import JoseError
            from joserfc.jwk import KeySet
        except ModuleNotFoundError as error:
            raise Unsupported(
                "Signing in with a provider needs the library joserfc, which is not installed.",
                hint="Install it where Stratal is: pip install 'stratal[oidc]'",
                reason="not_installed",
            ) from error
        checks = jwt.JWTClaimsRegistry(
            leeway=_LEEWAY,
            iss={"essential": True, "value": self._trust.issuer},
            aud={"essential": True, "value": self._trust.client_id},
            sub={"essential": True},
            exp={"essential": True},
            nonce={"essential": True, "value": nonce},
        )
        try:
            read = jwt.decode(token, KeySet.import_key_set(self._keys), algorithms=_ALGORITHMS)
            checks.validate(read.claims)
        except (JoseError, ValueError) as error:
            self._known_at = 0.0  # its keys may have changed: the next try reads them anew
            raise Unauthenticated(
                "The provider's token does not hold.", hint="Sign in again.", reason="bad_id_token"
            ) from error
        if read.claims.get("azp", self._trust.client_id) != self._trust.client_id:
            raise Unauthenticated("The provider's token is for another client.", reason="bad_id_token")
        return dict(read.claims)

    async def _description(self) -> Mapping[str, Any]:
        """The provider's endpoints and keys, read again now and then. Raises `Unavailable`."""
        async with self._lock:
            if time.monotonic() - self._known_at > _KNOWN_SECONDS or not self._known:
                issuer = self._trust.issuer.rstrip("/")
                known = self._json(await self._ask("GET", f"{issuer}/.well-known/openid-configuration"))
                if known.get("issuer") != self._trust.issuer:
                    raise Internal(
                        f"The provider calls itself {str(known.get('issuer'))[:200]!r}, not {self._trust.issuer!r}.",
                        hint="Set STRATAL_OIDC_ISSUER to what it calls itself.",
                    )
                self._keys = dict(self._json(await self._ask("GET", str(known["jwks_uri"]))))
                self._known, self._known_at = dict(known), time.monotonic()
            return self._known

    async def _ask(self, method: str, url: str, **more: Any) -> httpx.Response:
        check_secure(url)
        try:
            async with httpx.AsyncClient(
                timeout=_SECONDS, follow_redirects=False, trust_env=False, transport=self._transport
            ) as http:
                answer = await http.request(method, url, **more)
        except httpx.HTTPError as error:
            raise Unavailable(
                f"The identity provider does not answer ({type(error).__name__}).",
                hint="Try again in a moment.",
            ) from error
        if answer.status_code >= 500 or 300 <= answer.status_code < 400:
            raise Unavailable(f"The identity provider answered {answer.status_code}.")
        return answer

    @staticmethod
    def _json(answer: httpx.Response) -> Mapping[str, Any]:
        try:
            told = answer.json()
        except ValueError:
            told = None
        if answer.status_code != 200 or not isinstance(told, dict):
            raise Unavailable(f"The identity provider answered {answer.status_code} with nothing usable.")
        return told


def check_secure(url: str) -> str:
    """Raises `Internal` for an address that is neither https nor on this machine: tokens would go in the clear."""
    parts = urlsplit(url)
    if parts.scheme == "https" or (
        parts.scheme == "http" and parts.hostname in {"localhost", "127.0.0.1", "::1"}
    ):
        return url
    raise Internal(f"The identity provider's address {url[:200]!r} is not https.")
