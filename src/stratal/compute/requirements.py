"""Requirements as people write them, checked before anything acts on them.

The text comes from whoever may run jobs and is read by a resolver that runs as the operator, so what
would make it read files of this machine (``-r``, ``-c``, ``-e``, paths, ``file:``), expand its variables
(``${…}``) or put a password into a record is refused. Clients inline ``-r`` files before sending.
"""

import re

from stratal.kernel.errors import Invalid, TooLarge

MAX_BYTES = 1024 * 1024
_NAMED = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\s*(?:\[[A-Za-z0-9._,\s-]*\])?\s*"
    r"(?P<rest>$|[<>=!~;(]|@\s*(?P<url>\S+)|--hash[= ]).*",
    re.DOTALL,
)
_ARCHIVE = re.compile(r"\.(whl|zip|tar|tgz|tar\.\w+|egg)\Z", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:git\+)?https?://(?P<authority>[^/\s?#]+)\S*\Z", re.IGNORECASE)
_WITH_ADDRESS = {"-i", "--index-url", "--extra-index-url", "-f", "--find-links"}
_PLAIN = {"--no-index", "--pre", "--prefer-binary", "--only-binary", "--no-binary", "--require-hashes"}


def canonical(text: str) -> str:
    """The requirements without comments, blank lines and continuations, one per line; "" for none.

    Raises `Invalid` for what cannot be installed here, naming the line; `TooLarge` beyond 1 MiB.
    """
    if len(text) > MAX_BYTES:
        raise TooLarge("The requirements are longer than 1 MiB.")
    if "\0" in text:
        raise Invalid("The requirements hold a NUL character.", reason="bad_requirements")
    joined = re.sub(r"\\\r?\n", " ", text)
    lines = []
    for raw in joined.splitlines():
        line = re.sub(r"(^|\s)#.*$", "", raw).strip()
        if line:
            _check(line)
            lines.append(re.sub(r"\s+", " ", line))
    return "".join(f"{line}\n" for line in lines)


def _check(line: str) -> None:
    if "${" in line:
        raise _refused(line, "Variables are not expanded here: write the value.")
    if line.startswith("-"):
        _check_option(line)
        return
    if "://" in line.split(None, 1)[0]:
        _check_address(line, line.split(None, 1)[0])
        return
    match = _NAMED.match(line)
    if match is None or _ARCHIVE.search(line.split(";")[0].split("@")[0].strip()):
        raise _refused(
            line, "Write a package's name with an optional version, e.g. pandas>=2, or an https address."
        )
    if match["url"]:
        _check_address(line, match["url"])


def _check_option(line: str) -> None:
    name, _, value = line.replace("=", " ", 1).partition(" ")
    if name in _WITH_ADDRESS:
        _check_address(line, value.strip())
    elif name in {"-r", "--requirement", "-c", "--constraint"}:
        raise _refused(line, "Put the lines of that file here.")
    elif name in {"-e", "--editable"}:
        raise _refused(line, "The job's code is already in its working directory: import it from there.")
    elif name not in _PLAIN:
        raise _refused(line, "This option is not supported here.")


def _check_address(line: str, address: str) -> None:
    match = _ADDRESS.match(address)
    if match is None:
        raise _refused(
            line, "Only http and https addresses can be used; the operator configures local sources."
        )
    if "@" in match["authority"]:
        raise _refused(
            re.sub(r"//[^/\s@]+@", "//****@", line),
            "An address here must not carry a password: it would be recorded. The operator configures such sources.",
        )


def _refused(line: str, hint: str) -> Invalid:
    shown = line if len(line) <= 120 else line[:117] + "..."
    return Invalid(f"The requirement {shown!r} cannot be used.", hint=hint, reason="bad_requirements")
