"""Data that is fetched because somebody asked for it: one address, bounded, and nothing taken for what it was to be.

Whether the bytes are the declared edition is for the checksum to say (`Study.source`).
"""

import io
import zipfile
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

MOST_BYTES = 256 << 20
SECONDS = 120


class NotFetched(Exception):
    """Why there are no data, for people."""


class _SameScheme(HTTPRedirectHandler):
    """Follows no redirect from https to anything else."""

    def redirect_request(self, request, file, code, message, headers, address):  # type: ignore[no-untyped-def]
        if urlsplit(address).scheme != urlsplit(request.full_url).scheme:
            raise NotFetched(f"{request.full_url} leads to {address[:200]}, by another protocol.")
        return super().redirect_request(request, file, code, message, headers, address)


def fetched(address: str, most: int = MOST_BYTES) -> bytes:
    """The bytes at `address` (http or https). Raises `NotFetched` saying what to do."""
    if urlsplit(address).scheme not in {"http", "https"}:
        raise NotFetched(f"{address[:200]} is no address of the web.")
    asked = Request(address, headers={"User-Agent": "stratal-solutions"})  # noqa: S310 - looked at above
    try:
        with build_opener(_SameScheme).open(asked, timeout=SECONDS) as answer:
            data: bytes = answer.read(most + 1)
    except HTTPError as error:
        raise NotFetched(f"{address} answered {error.code}. Has it moved? solution.toml names it.") from None
    except (URLError, OSError) as error:
        raise NotFetched(
            f"{address} cannot be reached: {getattr(error, 'reason', error)}. --download needs an open network; "
            "without it the solution runs on what it brings along."
        ) from None
    if len(data) > most:
        raise NotFetched(f"{address} has more than {most:,} bytes.")
    return data


def member(archive: bytes, name: str, most: int = MOST_BYTES) -> bytes:
    """One file of a zip archive, by its whole name. Raises `NotFetched` when it is not in it, or too large."""
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            found = opened.getinfo(name)
            if found.file_size > most:
                raise NotFetched(f"{name} in the archive has {found.file_size:,} bytes.")
            return opened.read(found)
    except (KeyError, zipfile.BadZipFile) as error:
        raise NotFetched(f"The archive is none, or holds no {name}: {error}.") from None
