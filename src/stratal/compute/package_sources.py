"""Where packages come from: the operator's pip configuration, said in uv's variables.

Whoever runs Stratal has told pip where this machine's packages are (a mirror, a folder of wheels, a
proxy with its own certificate); environments are built by uv, which does not read pip's settings. So
they are translated: https://pip.pypa.io/en/stable/topics/configuration/ into
https://docs.astral.sh/uv/reference/environment/. What is set for uv itself always wins.

Standard library only, imports nothing of ours: a bootstrap may run this file before anything is
installed (``python package_sources.py --sh`` prints ``export`` lines for a shell).
"""

import configparser
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

_UV_PREFIX = "UV_"
_PASSED_ON = (
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "SSL_CLIENT_CERT", "NETRC"),
    *(
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "no_proxy",
    ),
)
_NOT_PASSED_ON = {  # they say where uv works and what it does there, which is not for them to say here
    *("UV_PROJECT", "UV_PROJECT_ENVIRONMENT", "UV_WORKING_DIR", "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_TARGET"),
    *("UV_PREFIX", "UV_COMPILE_BYTECODE", "UV_VENV_SEED", "UV_ENV_FILE", "UV_DRY_RUN"),
}
NO_INDEX = "file:///nonexistent"
"""What stands for no index at all: uv has no variable for that, but an index that is empty."""
_URL_USER = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^/\s@]+)@")


def uv_environment(environ: Mapping[str, str], pip_config: Mapping[str, str]) -> dict[str, str]:
    """The variables that make uv look where this machine's pip looks.

    `pip_config` is what `pip_config()` returned. With several sources uv is told to take the best
    version of all of them, as pip does; its own default is to stop at the first that knows the name.
    The result also holds what `environ` says for uv, proxies and certificates, and may hold
    credentials: it belongs into a process's environment, never into a log (see `redact`).
    """
    result = {
        name: value
        for name, value in environ.items()
        if (name.startswith(_UV_PREFIX) and name not in _NOT_PASSED_ON) or name in _PASSED_ON
    }
    for name, value in _translated(pip_config):
        older = {"UV_DEFAULT_INDEX": "UV_INDEX_URL", "UV_INDEX": "UV_EXTRA_INDEX_URL"}.get(name, name)
        if value and name not in result and older not in result:
            result[name] = value
    if "UV_INDEX" in result or "UV_EXTRA_INDEX_URL" in result:
        result.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    return result


def _translated(config: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    words = {name: value.split() for name, value in config.items()}
    if _is_true(config.get("no-index", "")):
        yield "UV_DEFAULT_INDEX", NO_INDEX
    else:
        yield "UV_DEFAULT_INDEX", "".join(words.get("index-url", [])[-1:])
        yield "UV_INDEX", " ".join(words.get("extra-index-url", []))
    yield "UV_FIND_LINKS", ",".join(_existing_links(words.get("find-links", [])))
    yield "SSL_CERT_FILE", _absolute(config.get("cert", ""))
    yield "SSL_CLIENT_CERT", _absolute(config.get("client-cert", ""))
    yield "UV_INSECURE_HOST", " ".join(words.get("trusted-host", []))
    yield "UV_CONSTRAINT", " ".join(_absolute(word) for word in words.get("constraint", []))
    yield "UV_BUILD_CONSTRAINT", " ".join(_absolute(word) for word in words.get("build-constraint", []))
    yield "UV_PRERELEASE", "allow" if _is_true(config.get("pre", "")) else ""
    yield "UV_HTTP_TIMEOUT", _whole(config.get("timeout", config.get("default-timeout", "")))
    yield "UV_HTTP_RETRIES", _whole(config.get("retries", ""))
    yield "UV_KEYRING_PROVIDER", "subprocess" if config.get("keyring-provider") == "subprocess" else ""
    proxy = config.get("proxy", "").strip()
    yield "HTTP_PROXY", proxy
    yield "HTTPS_PROXY", proxy
    for option, every, some in (
        ("no-binary", "UV_NO_BINARY", "UV_NO_BINARY_PACKAGE"),
        ("only-binary", "UV_NO_BUILD", "UV_NO_BUILD_PACKAGE"),
    ):
        names = [name for name in re.split(r"[\s,]+", config.get(option, "")) if name and name != ":none:"]
        if ":all:" in names:
            yield every, "1"
        elif names:
            yield some, " ".join(names)


def arguments(sources: Mapping[str, str]) -> list[str]:
    """What ``uv pip`` must be told in words, since it does not read the variables that uv's other commands read."""
    told = ["--no-binary", ":all:"] if _is_true(sources.get("UV_NO_BINARY", "")) else []
    for name in sources.get("UV_NO_BINARY_PACKAGE", "").split():
        told += ["--no-binary", name]
    for name in sources.get("UV_NO_BUILD_PACKAGE", "").split():
        told += ["--only-binary", name]
    return told


def _existing_links(links: Iterable[str]) -> Iterable[str]:
    """pip only warns about a folder of wheels that is not there; uv would fail."""
    for link in links:
        if "://" in link:
            yield link
        elif Path(link).expanduser().exists():
            yield _absolute(link)


def _absolute(path: str) -> str:
    """As an absolute path: uv runs in a folder of its own."""
    path = path.strip()
    return path if not path or "://" in path else str(Path(path).expanduser().absolute())


def _whole(text: str) -> str:
    """pip takes ``15.0``, uv whole numbers only."""
    match = re.match(r"\s*(\d+)", text)
    return match[1] if match else ""


def _is_true(text: str) -> bool:
    return text.strip().lower() in {"1", "yes", "true", "on"}


# -- pip's settings ----------------------------------------------------------------------------------


def pip_config(
    environ: Mapping[str, str], *, prefixes: Iterable[str] = (), global_files: Iterable[str] | None = None
) -> dict[str, str]:
    """What ``pip install`` on this machine would use: option name → value, later sources overriding earlier.

    In pip's order: global files, the user's, each of `prefixes` (the installation's, then the virtual
    environment's), PIP_CONFIG_FILE, then PIP_* variables; in each file ``[global]``, then
    ``[install]``. Files that are absent or malformed say nothing.
    """
    options: dict[str, str] = {}
    for path in _config_files(environ, prefixes, global_files):
        # Values may hold '%' (escaped passwords); pip does not interpolate either.
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError):
            continue
        for section in ("global", "install"):
            if parser.has_section(section):
                for name, value in parser.items(section):
                    if value:
                        options[_option(name)] = value
    for name, value in environ.items():
        if name.startswith("PIP_") and value and name != "PIP_CONFIG_FILE":
            options[_option(name[4:])] = value
    return options


def _option(name: str) -> str:
    return name.lower().replace("_", "-").lstrip("-")


def _config_files(
    environ: Mapping[str, str], prefixes: Iterable[str], global_files: Iterable[str] | None
) -> Iterable[Path]:
    chosen = environ.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        return
    if global_files is None:
        for folder in reversed(environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")):
            yield Path(folder) / "pip" / "pip.conf"
        yield Path("/Library/Application Support/pip/pip.conf")
        yield Path("/etc/pip.conf")
    else:
        yield from map(Path, global_files)
    if not (chosen and Path(chosen).exists()):  # then pip leaves the user's own file alone
        home = Path(environ.get("HOME") or Path.home())
        yield home / ".pip" / "pip.conf"
        yield Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    for prefix in prefixes:
        yield Path(prefix) / "pip.conf"
    if chosen:
        yield Path(chosen)


def of_this_machine(environ: Mapping[str, str]) -> dict[str, str]:
    """`uv_environment` from `environ` and from the files of the pip beside this very Python."""
    prefixes = dict.fromkeys((sys.base_prefix, sys.prefix, environ.get("VIRTUAL_ENV") or sys.prefix))
    return uv_environment(environ, pip_config(environ, prefixes=prefixes))


# -- what must not be shown, and what must be readable -------------------------------------------------


def redact(text: str) -> str:
    """`text` without the user names and passwords of URLs."""
    return _URL_USER.sub(r"\g<scheme>****@", text)


def has_credentials(sources: Mapping[str, str]) -> bool:
    """True when a source's address carries a user name or password, or a key is asked of the keyring."""
    return any(_URL_USER.search(value) for value in sources.values()) or "UV_KEYRING_PROVIDER" in sources


def fingerprint(sources: Mapping[str, str]) -> dict[str, str]:
    """What of the sources decides which packages are found: no credentials, proxies or time limits."""
    kept = {}
    for name, value in sources.items():
        if name.startswith(_UV_PREFIX) and "TIMEOUT" not in name and "RETRIES" not in name:
            if name.endswith(("_PASSWORD", "_USERNAME", "_TOKEN")) or "CACHE" in name:
                continue
            kept[name] = " ".join(_without_user(word) for word in value.split(" "))
    return kept


def _without_user(word: str) -> str:
    if "://" not in word or "@" not in word:
        return word
    parts = urlsplit(word)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def local_paths(sources: Mapping[str, str]) -> list[Path]:
    """The files and folders of this machine among the sources: a sandboxed build must be able to read them."""
    found = []
    for name, separator in (
        *(("UV_DEFAULT_INDEX", " "), ("UV_INDEX_URL", " "), ("UV_INDEX", " "), ("UV_EXTRA_INDEX_URL", " ")),
        *(("UV_FIND_LINKS", ","), ("SSL_CERT_FILE", "\0"), ("SSL_CLIENT_CERT", "\0"), ("SSL_CERT_DIR", ":")),
        *(("UV_CONSTRAINT", " "), ("UV_BUILD_CONSTRAINT", " "), ("UV_OVERRIDE", " ")),
    ):
        for word in sources.get(name, "").split(separator):
            if word.startswith("/"):
                found.append(Path(word))
            elif word.partition("=")[2].startswith("file://") or word.startswith("file://"):
                found.append(Path(urlsplit(word[word.index("file://") :]).path))
    # A simple index refers to its files by relative links, usually beside it (../../files/…).
    parents = [path.parent for path in found if path.name == "simple" and len(path.parts) > 2]
    return [path for path in dict.fromkeys([*found, *parents]) if path.exists()]


def main(arguments: list[str]) -> int:
    """Print the variables: ``--sh`` as export lines, else ``NAME=value`` with credentials hidden."""
    variables = of_this_machine(os.environ)
    for name, value in sorted(variables.items()):
        if name in os.environ and os.environ[name] == value:
            continue
        if arguments == ["--sh"]:
            print(f"export {name}={shlex.quote(value)}")
        else:
            print(f"{name}={redact(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
