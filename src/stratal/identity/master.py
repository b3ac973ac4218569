"""The master key: one file, mode 0600, from which every API key's secret is derived.

The file holds numbered versions, one per line (``1:<64 hex digits>``). A key's id carries the number
it was made under, so adding a version rotates new keys without breaking old ones. Each purpose has a
subkey of its own by HKDF (RFC 5869): what is used to sign never encrypts.
"""

import hmac
import os
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from stratal.kernel.errors import Internal, Unauthenticated


class MasterKey:
    """Derives secrets. Holds the master key's versions in memory and shows them to nobody."""

    def __init__(self, versions: dict[int, bytes]) -> None:
        self._subkeys = {number: _subkey(master, b"stratal api keys") for number, master in versions.items()}
        self._vaults = {
            number: AESGCM(_subkey(master, b"stratal encryption")) for number, master in versions.items()
        }
        self.current = max(versions)

    def secret_of(self, key_id: str, version: int) -> str:
        """The secret of the API key `key_id`: 43 URL-safe characters. Raises `Unauthenticated` for a lost version."""
        subkey = self._subkeys.get(version)
        if subkey is None:
            raise Unauthenticated(
                "This key was made under a master key that is gone.", hint="Create a new key."
            )
        digest = hmac.digest(subkey, key_id.encode(), "sha256")
        return urlsafe_b64encode(digest).rstrip(b"=").decode()

    def seal(self, plain: bytes, purpose: str) -> str:
        """Encrypt what must be read again (AES-GCM); it opens only under the same `purpose`."""
        nonce = secrets.token_bytes(12)
        sealed = self._vaults[self.current].encrypt(nonce, plain, purpose.encode())
        return f"{self.current}:{urlsafe_b64encode(nonce + sealed).decode()}"

    def open(self, sealed: str, purpose: str) -> bytes:
        """What `seal` sealed. Raises `Internal` when it was altered or its master key is gone."""
        number, _, text = sealed.partition(":")
        try:
            data = urlsafe_b64decode(text)
            return self._vaults[int(number)].decrypt(data[:12], data[12:], purpose.encode())
        except (KeyError, ValueError, InvalidTag) as error:
            raise Internal("What was encrypted under the master key cannot be opened.") from error


def _subkey(master: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(master)


def load_or_create(path: Path) -> MasterKey:
    """Read the master key file, making it (version 1) on first use. Raises `Internal` when it is damaged."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        lines = [f"1:{secrets.token_hex(32)}"]
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())
    try:
        versions = {
            int(number): bytes.fromhex(key)
            for number, _, key in (line.partition(":") for line in lines if line)
        }
        if not versions or any(len(key) != 32 for key in versions.values()):
            raise ValueError("no whole key")
    except ValueError as error:
        raise Internal(f"The master key file {path} is damaged.", hint="Restore it from a backup.") from error
    return MasterKey(versions)
