"""What is taken from a provider: tokens that it signed for us just now, and nothing else."""

import asyncio
import base64
import hmac
import time
from collections.abc import Callable
from typing import Any

import httpx
import orjson
import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from stratal.app.settings import trust
from stratal.identity.federation.model import Trust, grants_of, groups_of, name_of, roles_of
from stratal.identity.federation.provider import Gone, Provider, check_secure
from stratal.identity.model import Role
from stratal.kernel.errors import Internal, Invalid, Unauthenticated, Unavailable

ISSUER = "https://id.example.org"
KEY = RSAKey.generate_key(2048, {"kid": "k1"})
OTHER = RSAKey.generate_key(2048, {"kid": "k1"})


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    told = {
        "iss": ISSUER,
        "aud": "stratal",
        "sub": "ada",
        "nonce": "n",
        "iat": now,
        "exp": now + 60,
        **changed,
    }
    return {name: value for name, value in told.items() if value is not None}


def signed(key: Any = KEY, alg: str = "RS256", **changed: Any) -> str:
    return jwt.encode({"alg": alg, "kid": "k1"}, claims(**changed), key, algorithms=[alg])


def by_hand(alg: str, secret: bytes = b"") -> str:
    """Signed as no good library would: not at all, or with the provider's public key as a shared secret."""
    parts = [
        base64.urlsafe_b64encode(orjson.dumps(one)).rstrip(b"=")
        for one in ({"alg": alg, "kid": "k1"}, claims())
    ]
    proof = hmac.digest(secret, b".".join(parts), "sha256") if secret else b""
    return b".".join([*parts, base64.urlsafe_b64encode(proof).rstrip(b"=")]).decode()


def provider(answer: Callable[[httpx.Request], httpx.Response]) -> Provider:
    known = {
        "issuer": ISSUER,
        "authorization_endpoint": f"{ISSUER}/a?x=1",
        "token_endpoint": f"{ISSUER}/t",
        "userinfo_endpoint": f"{ISSUER}/u",
        "jwks_uri": f"{ISSUER}/k",
    }

    def told(request: httpx.Request) -> httpx.Response:
        match request.url.path:
            case "/.well-known/openid-configuration":
                return httpx.Response(200, json=known)
            case "/k":
                return httpx.Response(200, json={"keys": [KEY.as_dict(private=False)]})
            case "/u":
                return httpx.Response(200, json={"sub": "ada", "groups": ["team"]})
        return answer(request)

    return Provider(Trust(ISSUER, "stratal", "secret"), httpx.MockTransport(told))


def exchanged(token: str) -> Any:
    answer = {"access_token": "a", "refresh_token": "r", "id_token": token}
    asked = provider(lambda _: httpx.Response(200, json=answer))
    return asyncio.run(asked.exchange("code", "https://here/back", "v", "n"))


def test_a_token_signed_for_this_sign_in_is_taken() -> None:
    told = exchanged(signed())
    assert (told.subject, told.claims["groups"], told.refresh_token) == ("ada", ["team"], "r")
    assert exchanged(signed(aud=["stratal", "other"], azp="stratal")).subject == "ada"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x.y.z",
        by_hand("none"),
        signed(OTHER),
        by_hand("HS256", KEY.as_pem(private=False)),
        signed(iss="https://evil.example"),
        signed(aud="other"),
        signed(aud=None),
        signed(aud=["stratal", "other"], azp="other"),
        signed(nonce="m"),
        signed(nonce=None),
        signed(exp=1),
        signed(exp=None),
        signed(sub=None),
    ],
    ids=str.__len__,
)
def test_any_other_token_signs_nobody_in(token: str) -> None:
    with pytest.raises(Unauthenticated):
        exchanged(token)


def test_who_is_refused_is_gone_and_who_is_not_asked_about_stays() -> None:
    def renewed(answer: Callable[[httpx.Request], httpx.Response]) -> Any:
        return asyncio.run(provider(answer).renew("r", "ada"))

    assert renewed(lambda _: httpx.Response(200, json={"access_token": "a"})).refresh_token is None
    for status, error in ((400, "invalid_grant"), (401, "access_denied"), (403, "account_disabled")):
        with pytest.raises(Gone):
            renewed(lambda _, s=status, e=error: httpx.Response(s, json={"error": e}))  # type: ignore[misc]
    for answer in (
        httpx.Response(500),
        httpx.Response(302, headers={"location": "https://evil.example"}),
        httpx.Response(200, text="<html>"),
        httpx.Response(401, json={"error": "invalid_client"}),
    ):
        with pytest.raises(Unavailable):
            renewed(lambda _, a=answer: a)  # type: ignore[misc]

    def away(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(Unavailable):
        renewed(away)
    with pytest.raises(Gone):
        asyncio.run(provider(lambda _: httpx.Response(200, json={"access_token": "a"})).renew("r", "ben"))
    with pytest.raises(Internal):
        check_secure("http://id.example.org/t")


def test_groups_are_roles_the_strongest_counts() -> None:
    trusted = Trust(
        ISSUER, "s", "", grants_of("a=lab:viewer, b=lab:owner,c=x:editor,d=e=x:viewer,ops=*:admin")
    )
    assert roles_of(trusted, ["a", "b"]) == ({"lab": Role.OWNER}, False)
    assert roles_of(trusted, ["ops", "d=e"]) == ({"x": Role.VIEWER}, True)
    assert roles_of(trusted, []) == ({}, False)
    for wrong in ("a", "a=lab", "a=lab:king", "=lab:viewer", "a=:viewer", "a=*:owner", "a=lab:admin"):
        with pytest.raises(ValueError, match=r"editor|admin"):
            grants_of(wrong)
    assert [groups_of({"g": told}, "g") for told in (["a", 1], "a", 3, None)] == [["a"], ["a"], [], []]
    names = ("ada", "Ada L.", "ada@x.org", "../..", "<b>", "")
    assert [name_of({"preferred_username": one}) for one in names] == [
        "ada", "Ada-L", "ada", "somebody", "b", "somebody",
    ]  # fmt: skip


def test_what_is_set_is_checked() -> None:
    assert trust({}) is None
    for missing in ({}, {"STRATAL_OIDC_CLIENT_ID": "s", "STRATAL_OIDC_GROUPS": "x"}):
        with pytest.raises(Invalid):
            trust({"STRATAL_OIDC_ISSUER": ISSUER, **missing})
    made = trust(
        {"STRATAL_OIDC_ISSUER": ISSUER, "STRATAL_OIDC_CLIENT_ID": "s", "STRATAL_OIDC_CLIENT_SECRET": "hush"}
    )
    assert "hush" not in repr(made)
