"""When are two files the same that differ in bytes? When they are archives with the same members, packed at another time.

NumPy's, PyTorch's and Keras' files are zip archives, which carry the time of packing. skops' are, too, and name the
arrays and objects within by addresses of memory, which are other ones in each process: these are replaced by the order in
which they first come up. Nothing is unpacked but skops' own description.
"""

import hashlib
import re
import zipfile
from pathlib import Path

_MOST_DESCRIPTION = 32 << 20
_MOST_MEMBERS = 100_000
_DESCRIPTION = "schema.json"
_ADDRESS = re.compile(rb'("__id__":\s*|")(\d{6,20})(?=[,\s}]|\.np[yz]"|\.bin")')
_NAMED = re.compile(r"(\d{6,20})(\.\w+)")


def canonical(path: Path) -> str | None:
    """A digest that does not depend on when and at which addresses an archive was made; None: it is no such archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > _MOST_MEMBERS:
                return None
            order: dict[str, str] = {}
            digest = hashlib.sha256()
            described = next((member for member in members if member.filename == _DESCRIPTION), None)
            if described is not None and described.file_size <= _MOST_DESCRIPTION:
                digest.update(_in_order(archive.read(described), order))
            lines = sorted(
                f"{_name(member.filename, order)}\0{member.CRC}\0{member.file_size}"
                for member in members
                if member is not described
            )
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError):
        return None
    digest.update("\n".join(lines).encode())
    return digest.hexdigest()


def _in_order(description: bytes, order: dict[str, str]) -> bytes:
    """The description with each address replaced by its place in the order in which they come up."""

    def one(found: "re.Match[bytes]") -> bytes:
        return found[1] + order.setdefault(found[2].decode(), f"#{len(order)}").encode()

    return _ADDRESS.sub(one, description)


def _name(member: str, order: dict[str, str]) -> str:
    found = _NAMED.fullmatch(member)
    return member if found is None else order.get(found[1], found[1]) + found[2]
