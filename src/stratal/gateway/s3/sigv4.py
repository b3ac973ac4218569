"""AWS Signature Version 4, as a server checks it. Pure: bytes in, verdict out.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-authenticating-requests.html

A request proves its key by signing a canonical form of itself. In the header form the hash of the
body is part of it; in the query form (presigned) the body is not; in the streaming forms each chunk of the
body carries a signature over itself and the signature before (`ChunkSigner`).
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote_from_bytes, unquote_to_bytes

from stratal.gateway.s3.errors import refusal
from stratal.gateway.s3.request import Head
from stratal.kernel.errors import StratalError

ALGORITHM = "AWS4-HMAC-SHA256"
SKEW_MS = 15 * 60 * 1000
MAX_EXPIRY_SECONDS = 7 * 24 * 3600
UNSIGNED = "UNSIGNED-PAYLOAD"
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_FIELD = re.compile(r"\s*([A-Za-z]+)=([^,]*?)\s*(?:,|\Z)")
_SIGNATURE = re.compile(r"[0-9a-f]{64}\Z")
_AMZ_DATE = re.compile(r"[0-9]{8}T[0-9]{6}Z\Z")


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose key, and for which day, region and service it was derived."""

    key_id: str
    date: str
    region: str
    service: str

    def __str__(self) -> str:
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


@dataclass(frozen=True, slots=True)
class Claim:
    """A signature as a request presents it, not verified yet.

    `at` is the amz-date; `expires` the validity in seconds of a presigned request, None otherwise;
    `payload` what the request says of its body's hash.
    """

    scope: Scope
    signed_headers: tuple[str, ...]
    signature: str
    at: str
    expires: int | None
    payload: str

    @property
    def at_ms(self) -> int:
        return (_time_of(self.at) or 0) * 1000


def scope_of(head: Head) -> tuple[str, ...] | None:
    """The parts of the credential scope that a request shows, however malformed; None when it shows none."""
    header = head.header("authorization")
    if header is not None and header.startswith(b"AWS4-"):
        match = re.search(rb"Credential=([^,\s]*)", header)
        return tuple((match[1] if match else b"").decode("latin-1").rsplit("/", 4))
    query = dict(head.query)
    if b"X-Amz-Algorithm" in query or b"X-Amz-Credential" in query:
        return tuple(query.get(b"X-Amz-Credential", b"").decode("latin-1").rsplit("/", 4))
    return None


def parse_claim(head: Head) -> Claim:
    """Read the signature from the Authorization header or the query. Raises S3's error for a malformed one."""
    header = head.header("authorization")
    if header is not None:
        return _parse_header(head, header.decode("latin-1"))
    return _parse_query({name.decode("latin-1"): value.decode("latin-1") for name, value in head.query}, head)


def _parse_header(head: Head, header: str) -> Claim:
    algorithm, _, rest = header.partition(" ")
    if algorithm != ALGORITHM:
        raise refusal("NotImplemented", f"Only {ALGORITHM} signatures are served, not {algorithm[:40]!r}.")
    fields: dict[str, str] = dict(_FIELD.findall(rest))
    if not {"Credential", "SignedHeaders", "Signature"} <= fields.keys():
        raise _malformed("The Authorization header lacks Credential, SignedHeaders or Signature.")
    code = "AuthorizationHeaderMalformed"
    scope = _parse_scope(fields["Credential"], code)
    names = _parse_names(fields["SignedHeaders"], code)
    signature = _parse_signature(fields["Signature"], code)
    payload = head.header("x-amz-content-sha256")
    if payload is None:
        raise refusal("InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
    return Claim(scope, names, signature, _signed_at(head), None, payload.decode("latin-1"))


def _parse_query(query: dict[str, str], head: Head) -> Claim:
    code = "AuthorizationQueryParametersError"
    needed = {"X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders"}
    missing = sorted({*needed, "X-Amz-Signature"} - query.keys())
    if missing:
        raise refusal(code, f"The query lacks {', '.join(missing)}.")
    if query["X-Amz-Algorithm"] != ALGORITHM:
        raise refusal(code, f"X-Amz-Algorithm only supports {ALGORITHM}.")
    if _time_of(query["X-Amz-Date"]) is None:
        raise refusal(code, "X-Amz-Date must be in the format yyyyMMdd'T'HHmmss'Z'.")
    expires = query["X-Amz-Expires"]
    if not re.fullmatch(r"\d{1,7}", expires) or not 1 <= int(expires) <= MAX_EXPIRY_SECONDS:
        raise refusal(code, f"X-Amz-Expires must be from 1 to {MAX_EXPIRY_SECONDS} seconds.")
    payload = query.get("X-Amz-Content-Sha256") or (head.header("x-amz-content-sha256") or b"").decode(
        "latin-1"
    )
    return Claim(
        scope=_parse_scope(query["X-Amz-Credential"], code),
        signed_headers=_parse_names(query["X-Amz-SignedHeaders"], code),
        signature=_parse_signature(query["X-Amz-Signature"], code),
        at=query["X-Amz-Date"],
        expires=int(expires),
        payload=payload or UNSIGNED,
    )


def _parse_scope(credential: str, code: str) -> Scope:
    parts = credential.rsplit("/", 4)
    if len(parts) != 5 or parts[4] != "aws4_request" or not re.fullmatch(r"\d{8}", parts[1]):
        raise refusal(code, "The credential is not KEY_ID/DATE/REGION/SERVICE/aws4_request.")
    return Scope(parts[0], parts[1], parts[2], parts[3])


def _parse_names(names: str, code: str) -> tuple[str, ...]:
    found = tuple(names.split(";"))
    if "host" not in found or any(not re.fullmatch(r"[!-~]+", name) for name in found):
        raise refusal(code, "The signed headers must be named and include host.")
    return found


def _parse_signature(signature: str, code: str) -> str:
    if not _SIGNATURE.match(signature):
        raise refusal(code, "The signature is not 64 lower-case hex digits.")
    return signature


def _signed_at(head: Head) -> str:
    """The request's time: x-amz-date, or the Date header. Raises AccessDenied."""
    stamp = (head.header("x-amz-date") or b"").decode("latin-1")
    if _time_of(stamp) is not None:
        return stamp
    date = (head.header("date") or b"").decode("latin-1")
    try:
        moment = datetime.strptime(date, "%a, %d %b %Y %H:%M:%S GMT")
    except ValueError as error:
        raise refusal("AccessDenied", "The request needs a valid Date or x-amz-date header.") from error
    return f"{moment:%Y%m%dT%H%M%SZ}"


def _time_of(stamp: str) -> int | None:
    """Seconds since 1970 of an amz-date; None for one that is none."""
    if not _AMZ_DATE.match(stamp):
        return None
    day, second = stamp[:8], stamp[9:15]
    try:
        return int(
            datetime(
                int(day[:4]),
                int(day[4:6]),
                int(day[6:]),
                int(second[:2]),
                int(second[2:4]),
                int(second[4:]),
                tzinfo=UTC,
            ).timestamp()
        )
    except ValueError:
        return None


def _malformed(message: str) -> StratalError:
    return refusal("AuthorizationHeaderMalformed", message)


# -- verifying -----------------------------------------------------------------------------------


def check_time(claim: Claim, now_ms: int) -> None:
    """Refuse a request signed too long ago or in the future, or a presigned one that has expired."""
    if not claim.at.startswith(claim.scope.date):
        raise refusal("SignatureDoesNotMatch", "The credential's date is not the request's.")
    if claim.at_ms > now_ms + SKEW_MS or (claim.expires is None and claim.at_ms < now_ms - SKEW_MS):
        raise refusal(
            "RequestTimeTooSkewed",
            "The difference between the request time and the server's time is too large.",
            requestTime=claim.at,
            maxAllowedSkewMilliseconds=SKEW_MS,
        )
    if claim.expires is not None and now_ms > claim.at_ms + claim.expires * 1000:
        raise refusal("AccessDenied", "Request has expired.", expires=claim.expires)


def signing_key(secret: str, scope: Scope) -> bytes:
    key = b"AWS4" + secret.encode()
    for part in (scope.date, scope.region, scope.service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def verify(head: Head, claim: Claim, key: bytes) -> None:
    """Check the signature under the signing key. Raises SignatureDoesNotMatch, or AccessDenied when a header
    that means something is not among those signed."""
    unsigned = unsigned_headers(head, claim)
    if unsigned:
        raise refusal(
            "AccessDenied",
            "There were headers present in the request which were not signed.",
            headersNotSigned=", ".join(unsigned),
        )
    # Clients disagree about what needs escaping in a path. S3 signs the path as it would encode it;
    # the path exactly as sent binds the same request, so it is as good.
    for path in dict.fromkeys((canonical_path(head.raw_path), head.raw_path)):
        text = string_to_sign(claim, canonical_request(head, claim, path))
        expected = hmac.digest(key, text.encode(), "sha256").hex()
        if hmac.compare_digest(expected, claim.signature):
            return
    raise refusal(
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided. "
        "Check your secret key and signing method.",
        stringToSign=text,
        canonicalRequest=canonical_request(head, claim, canonical_path(head.raw_path)).decode("latin-1"),
    )


def unsigned_headers(head: Head, claim: Claim) -> list[str]:
    """The x-amz- headers of the request that its signature does not cover."""
    present = {name.decode("latin-1") for name, _ in head.headers if name.startswith(b"x-amz-")}
    return sorted(present - set(claim.signed_headers) - {"x-amz-content-sha256"})


def canonical_request(head: Head, claim: Claim, path: bytes) -> bytes:
    headers = b"".join(
        name.encode("latin-1") + b":" + _collapse(head, name) + b"\n" for name in claim.signed_headers
    )
    return b"\n".join(
        (
            head.method.encode(),
            path,
            canonical_query(head),
            headers,
            ";".join(claim.signed_headers).encode("latin-1"),
            claim.payload.encode("latin-1"),
        )
    )


def canonical_path(raw: bytes) -> bytes:
    """The path percent-encoded as S3 does: everything but letters, digits and ``-._~/``."""
    return quote_from_bytes(unquote_to_bytes(raw), safe="/-._~").encode() or b"/"


def canonical_query(head: Head) -> bytes:
    """The query's pairs encoded anew and sorted, without the signature itself."""
    pairs = sorted((_encode(n), _encode(v)) for n, v in head.query if n != b"X-Amz-Signature")
    return "&".join(f"{name}={value}" for name, value in pairs).encode()


def _encode(raw: bytes) -> str:
    return quote_from_bytes(raw, safe="-._~")


def _collapse(head: Head, name: str) -> bytes:
    wanted = name.encode("latin-1")
    return b",".join(b" ".join(value.split()) for key, value in head.headers if key == wanted)


def string_to_sign(claim: Claim, canonical: bytes) -> str:
    return "\n".join((ALGORITHM, claim.at, str(claim.scope), hashlib.sha256(canonical).hexdigest()))


class ChunkSigner:
    """The chain of signatures over the chunks of a streamed body, seeded with the request's own.

    https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html
    """

    def __init__(self, key: bytes, claim: Claim) -> None:
        self._key = key
        self._prefix = (claim.at, str(claim.scope))
        self._previous = claim.signature

    def chunk(self, sha256: str) -> str:
        """The signature that the next chunk must carry, given the SHA-256 (hex) of its data."""
        return self._sign("AWS4-HMAC-SHA256-PAYLOAD", _EMPTY_SHA256, sha256)

    def trailer(self, canonical: bytes) -> str:
        """The signature that the trailers must carry; `canonical` is ``name:value\\n`` for each."""
        return self._sign("AWS4-HMAC-SHA256-TRAILER", hashlib.sha256(canonical).hexdigest())

    def _sign(self, kind: str, *hashes: str) -> str:
        text = "\n".join((kind, *self._prefix, self._previous, *hashes))
        self._previous = hmac.digest(self._key, text.encode(), "sha256").hex()
        return self._previous
