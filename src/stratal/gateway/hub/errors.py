"""From meaning to the Hub's errors: the status, a word in ``X-Error-Code``, the text in ``X-Error-Message`` and the body."""

from starlette.responses import JSONResponse, Response

from stratal.kernel.errors import StratalError

_CODES = {
    "no_such_model": "RepoNotFound",
    "no_such_revision": "RevisionNotFound",
    "no_such_entry": "EntryNotFound",
}
COMMIT = "commit"
"""The name of the detail of an error that says at which commit a file was looked for."""


def answer(error: StratalError, *, empty: bool) -> Response:
    """The error as the Hub's clients read it; without a body for HEAD."""
    code = _CODES.get(error.reason) or ("RepoNotFound" if error.status == 404 else "")
    message = str(error).encode("ascii", "replace").decode().replace("\n", " ")
    headers = {"X-Error-Message": message}
    if code:
        headers["X-Error-Code"] = code
    if COMMIT in error.details:
        headers["X-Repo-Commit"] = str(error.details[COMMIT])
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="Stratal"'
    if empty:
        return Response(status_code=error.status, headers=headers)
    return JSONResponse({"error": str(error)}, error.status, headers)
