"""Sending large files: Git LFS's batch answer, and addresses that carry their own proof.

Clients send the bytes without their key (elsewhere such an address is a storage service's, with a signature
in it), so the address names the key that asked for it, until when it is good, and a MAC of all that under
the key's secret. It dies with the key.
"""

import hmac
from hashlib import sha256
from typing import Any
from urllib.parse import quote, urlencode

from stratal.identity.keys import Keys
from stratal.identity.model import Principal
from stratal.kernel.clock import Clock
from stratal.kernel.errors import Denied, Invalid, Unauthenticated

MAX_OBJECTS = 1000
MEDIA_TYPE = "application/vnd.git-lfs+json"
_GOOD_FOR = 24 * 3600 * 1000


class Addresses:
    """Makes and checks addresses to PUT bytes to: ``<base>/lfs/<project>/<oid>?…``."""

    def __init__(self, keys: Keys, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock

    def make(self, base: str, who: Principal, project: str, oid: str, size: int) -> str:
        if who.key_id is None:
            raise Denied("Bytes are uploaded with a key.", hint="Send 'Authorization: Bearer <key>'.")
        until = str(self._clock() + _GOOD_FOR)
        proof = self._proof(who.key_id, project, oid, str(size), until)
        query = urlencode({"size": size, "key": who.key_id, "until": until, "proof": proof})
        return f"{base}/lfs/{quote(project, safe='')}/{oid}?{query}"

    async def check(self, project: str, oid: str, query: Any) -> tuple[Principal, int]:
        """Whose address it is, and how many bytes may come. Raises `Unauthenticated`."""
        key, until, size = (str(query.get(name, "")) for name in ("key", "until", "size"))
        good = hmac.compare_digest(
            self._proof(key, project, oid, size, until).encode(), str(query.get("proof", "")).encode()
        )
        if not good or int(until) < self._clock():
            raise Unauthenticated(
                "This address to upload to is wrong or has expired.",
                hint="Ask for a new one.",
                reason="bad_upload_address",
            )
        return await self._keys.principal_of(key), int(size)

    def _proof(self, key_id: str, project: str, oid: str, size: str, until: str) -> str:
        message = "\n".join(("hub upload", project, oid, size, until))
        return hmac.new(self._keys.secret_of(key_id).encode(), message.encode(), sha256).hexdigest()


def asked_objects(body: dict[str, Any]) -> list[tuple[str, int]]:
    """The (oid, size) pairs of a batch request. Raises `Invalid`."""
    if body.get("operation") != "upload":
        raise Invalid("Only uploads go through LFS here; files are read at /resolve/.", reason="bad_request")
    if body.get("hash_algo", "sha256") != "sha256" or "basic" not in body.get("transfers", ["basic"]):
        raise Invalid("Bytes are sent with transfer 'basic' and hash_algo 'sha256'.", reason="bad_request")
    listed = body.get("objects")
    if not isinstance(listed, list) or len(listed) > MAX_OBJECTS:
        raise Invalid(f"objects must be a list of at most {MAX_OBJECTS}.", reason="bad_request")
    found = []
    for one in listed:
        oid, size = (one.get("oid"), one.get("size")) if isinstance(one, dict) else (None, None)
        if not isinstance(oid, str) or not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise Invalid("An object needs an oid and a size.", reason="bad_request")
        found.append((oid, size))
    return found
