"""Static files: their addresses carry a hash of them all, so browsers may keep them for ever."""

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response

FOLDER = Path(__file__).parent / "static"

_TYPES = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".woff2": "font/woff2",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".json": "application/json",
}
_FOR_EVER = "public, max-age=31536000, immutable"


class Assets:
    """The files below `folder`, read once for their hashes; bytes are streamed from disk on each request.

    One hash over all of them stands as a folder in the address, so relative links between them
    (a style sheet's fonts, a script's imports) stay right and change together.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self._hashes: dict[str, str] = {}
        self._folder = folder
        for path in sorted(folder.rglob("*")):
            if path.suffix in _TYPES:
                name = path.relative_to(folder).as_posix()
                self._hashes[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        whole = "".join(f"{name}:{digest}\n" for name, digest in self._hashes.items())
        self.version = hashlib.sha256(whole.encode()).hexdigest()[:12]

    def url(self, name: str) -> str:
        """The address of a file. Raises `KeyError` for one that does not exist."""
        _ = self._hashes[name]
        return f"/static/{self.version}/{name}"

    async def serve(self, request: Request) -> Response:
        """Answer ``/static/<version>/<name>``. An older page's version gets today's file, not to be kept."""
        name = request.path_params["name"]
        digest = self._hashes.get(name)
        if digest is None:
            return PlainTextResponse("There is no such file.", 404)
        path = self._folder / name
        etag = f'W/"{digest[:20]}"'
        current = request.path_params["version"] == self.version
        headers = {"ETag": etag, "Cache-Control": _FOR_EVER if current else "no-cache"}
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return FileResponse(path, headers=headers, media_type=_TYPES[path.suffix])
