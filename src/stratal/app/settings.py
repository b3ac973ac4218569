"""Settings: the only place that reads the environment. `SETTINGS` documents every variable."""

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stratal.compute.package_sources import of_this_machine
from stratal.kernel.errors import Invalid
from stratal.sdk import amounts

if TYPE_CHECKING:  # they take longer to load than a command line may
    from stratal.collab.talk.mail import Smtp
    from stratal.collab.talk.outgoing import Network
    from stratal.identity.federation.model import Trust

SETTINGS: dict[str, str] = {
    "STRATAL_HOME": "The data directory (default ~/.stratal).",
    "STRATAL_DATABASE_URL": "The PostgreSQL database that keeps the records (default: SQLite in STRATAL_HOME).",
    "STRATAL_URL": "The address of the instance that CLI and SDK talk to (default: the one running on STRATAL_HOME).",
    "STRATAL_API_KEY": "The key CLI and SDK use (default: the admin key in STRATAL_HOME).",
    "STRATAL_CONTEXT": "The place that CLI and SDK go to, of those signed in at (default: stratal context use).",
    "STRATAL_PROJECT": "The project CLI commands act in (default: the key's).",
    "STRATAL_USER_DOMAIN": "The domain below which workspaces have host names of their own (default user.localhost).",
    "STRATAL_HUB_UPSTREAM": "The hub that `stratal models pull hf:…` asks, by its address (default: none).",
    "STRATAL_HUB_UPSTREAM_TOKEN": "The key that hub is asked with (default: none).",
    "STRATAL_FAKE_GPUS": "For tests: made-up GPUs in place of the machine's, e.g. h100:2,a100:1 (default none).",
    "STRATAL_CURRENCY": "The word that prices and costs are told in (default USD).",
    "STRATAL_OIDC_ISSUER": "The identity provider that people sign in with: https://id.example.org (default: none).",
    "STRATAL_OIDC_CLIENT_ID": "What this instance is called there.",
    "STRATAL_OIDC_CLIENT_SECRET": "What it proves that with.",
    "STRATAL_OIDC_GROUPS": "What groups there make of people here, e.g. ml-team=lab:editor,ops=*:admin (default nothing).",
    "STRATAL_OIDC_GROUPS_CLAIM": "The claim that names the groups (default groups).",
    "STRATAL_OIDC_SCOPES": "What is asked of the provider (default openid profile email offline_access).",
    "STRATAL_OIDC_CHECK_SECONDS": "How soon the provider is asked about everybody again (default 30).",
    "STRATAL_SMTP_URL": "Where mail is handed over: smtp://USER:PASSWORD@HOST:587?from=ADDRESS (default: none is sent).",
    "STRATAL_WEBHOOK_NETWORKS": "Networks that webhooks may tell though not public, e.g. 10.0.0.0/8 (default none).",
    "STRATAL_ZYGOTE_MEMORY": "Memory of all interpreters kept warm, e.g. 1GiB (default: a 16th, 512MiB to 2GiB; 0: none).",
    "STRATAL_ZYGOTE_IDLE": "Seconds after which an unused one of them goes (default 240).",
    "STRATAL_CONVERT": "Which scikit-learn models are converted to ONNX unasked: asked (none), served or always "
    "(default always).",
    "STRATAL_LOG_LEVEL": "How much the server logs: debug, info, warning or error (default info).",
}
DEFAULT_PORT = 8484
DEFAULT_USER_DOMAIN = "user.localhost"


@dataclass(frozen=True, slots=True)
class Home:
    """The data directory's layout. Everything the platform keeps lies below `root`."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "db" / "stratal.db"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def master_key(self) -> Path:
        return self.root / "keys" / "master.key"

    @property
    def admin_key(self) -> Path:
        return self.root / "keys" / "admin.key"

    def env_key(self, project: str) -> Path:
        return self.root / "keys" / f"env-{project}.key"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def lock(self) -> Path:
        return self.run / "server.lock"

    @property
    def server_record(self) -> Path:
        return self.run / "server.json"

    @property
    def platform_socket(self) -> Path:
        """The server's unix socket: how sandboxed workloads without a network reach the platform."""
        return self.run / "platform" / "server.sock"

    @property
    def keeper(self) -> Path:
        return self.run / "keeper"

    @property
    def ray(self) -> Path:
        """The pool of ``--engine ray``: its bridge's files, its head's, its token."""
        return self.run / "ray"

    @property
    def log(self) -> Path:
        return self.root / "logs" / "server.log"

    @property
    def environments(self) -> Path:
        return self.root / "envs"

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def checkpoints(self) -> Path:
        """What jobs keep from one attempt to the next."""
        return self.root / "checkpoints"

    @property
    def spool(self) -> Path:
        """Prediction rows that have not been rolled into the lake."""
        return self.root / "spool"

    @property
    def models(self) -> Path:
        """Model files laid out for replicas; a cache, rebuilt from blobs."""
        return self.root / "models"

    @property
    def indexes(self) -> Path:
        """Indexes of documents laid out for searching; a cache, rebuilt from the lake."""
        return self.root / "indexes"

    @property
    def audit(self) -> Path:
        """The audit log's head, kept outside of the database."""
        return self.root / "audit"

    @property
    def repositories(self) -> Path:
        """Bare git repositories, named by id."""
        return self.root / "repositories"

    @property
    def functions(self) -> Path:
        """Functions' code laid out for replicas; a cache, rebuilt from snapshots."""
        return self.root / "functions"

    @property
    def apps(self) -> Path:
        """Laid-out code of apps."""
        return self.root / "apps"

    @property
    def workspaces(self) -> Path:
        """Workspaces' files, named by id."""
        return self.root / "workspaces"

    def make(self) -> None:
        """Create the directories, each closed to other users (mode 0700)."""
        for path in (
            self.root,
            self.database.parent,
            self.blobs,
            self.master_key.parent,
            self.run,
            self.platform_socket.parent,
            self.keeper,
            self.log.parent,
            self.environments,
            self.work,
            self.checkpoints,
            self.spool,
            self.models,
            self.repositories,
            self.functions,
            self.workspaces,
        ):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)


@dataclass(frozen=True, slots=True)
class Settings:
    """How one instance runs. `hostnames` are names it answers to besides loopback and its `host`.

    `engine` is what jobs run on, ``local`` or ``ray``; `ray_interface` and `ray_port` are where the pool's
    head listens, the port that next to the platform's unless given. `ray_grow_to`, processors and bytes of memory, is
    what somebody will add machines up to: jobs that fit in it are shown to Ray as demand.
    """

    home: Home
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    insecure: bool = False
    log_level: str = "info"
    hostnames: tuple[str, ...] = ()
    currency: str = "USD"
    user_domain: str = DEFAULT_USER_DOMAIN
    convert: str = "always"
    database_url: str | None = field(default=None, repr=False)  # it may hold a password
    engine: str = "local"
    ray_interface: str = "127.0.0.1"
    ray_port: int | None = None
    ray_grow_to: tuple[float, int] | None = None

    @property
    def everywhere(self) -> bool:
        """Does it listen on all of the machine's addresses?"""
        return self.host in {"0.0.0.0", "::"}  # noqa: S104

    @property
    def answers_to(self) -> tuple[str, ...]:
        """Host names that requests may ask for, besides loopback ones."""
        own = (socket.gethostname(), socket.getfqdn()) if self.everywhere else ()
        return (self.host, *self.hostnames, *own)

    @property
    def url(self) -> str:
        """The address printed and put into clients' variables."""
        host = "127.0.0.1" if self.everywhere or self.host == "localhost" else self.host
        shown = f"[{host}]" if ":" in host else host
        return f"{'https' if self.tls_certificate else 'http'}://{shown}:{self.port}"


def home_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """STRATAL_HOME, else ~/.stratal; absolute."""
    return Path(environ.get("STRATAL_HOME") or Path.home() / ".stratal").expanduser().absolute()


def database_url(environ: Mapping[str, str] = os.environ) -> str | None:
    """STRATAL_DATABASE_URL; None for SQLite in the data directory."""
    return environ.get("STRATAL_DATABASE_URL") or None


def hub_upstream(environ: Mapping[str, str] = os.environ) -> tuple[str | None, str | None]:
    """STRATAL_HUB_UPSTREAM and STRATAL_HUB_UPSTREAM_TOKEN. Raises `Invalid` for an address that is none."""
    address = environ.get("STRATAL_HUB_UPSTREAM") or None
    if address is not None and not re.match(r"https?://[^/\s?#]+(?:/[^\s?#]*)?\Z", address):
        raise Invalid("STRATAL_HUB_UPSTREAM must be an address like https://hub.example.org.")
    return address, environ.get("STRATAL_HUB_UPSTREAM_TOKEN") or None


def search_path(environ: Mapping[str, str] = os.environ) -> str:
    """Where the platform's own programs (git) are looked for: PATH."""
    return environ.get("PATH") or os.defpath


def package_sources(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Where packages come from on this machine, as variables for uv, read anew; may hold credentials."""
    own = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")  # uv's cache, its settings, netrc
    return {**of_this_machine(environ), **{name: environ[name] for name in own if name in environ}}


def fake_gpus(environ: Mapping[str, str] = os.environ) -> str:
    """STRATAL_FAKE_GPUS: ``h100:2,a100:1``, or "" for the machine's own."""
    return environ.get("STRATAL_FAKE_GPUS", "")


def currency(environ: Mapping[str, str] = os.environ) -> str:
    """STRATAL_CURRENCY, else USD. Raises `Invalid` for what is no word of up to 12 letters."""
    word = environ.get("STRATAL_CURRENCY") or "USD"
    if not re.fullmatch(r"[^\W\d_]{1,12}", word):
        raise Invalid(
            f"STRATAL_CURRENCY={word[:40]!r} is no word for a currency.", hint="Write it as in: EUR"
        )
    return word


def convert(environ: Mapping[str, str] = os.environ) -> str:
    """STRATAL_CONVERT, else always. Raises `Invalid` for any other word than asked, served and always."""
    word = environ.get("STRATAL_CONVERT") or "always"
    if word not in {"asked", "served", "always"}:
        raise Invalid(f"STRATAL_CONVERT={word[:40]!r} is not asked, served or always.")
    return word


def user_domain(environ: Mapping[str, str] = os.environ) -> str:
    """STRATAL_USER_DOMAIN, else user.localhost. Raises `Invalid` for what cannot be a domain of two parts or more."""
    domain = (environ.get("STRATAL_USER_DOMAIN") or DEFAULT_USER_DOMAIN).lower().strip(".")
    if not re.fullmatch(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{2,63}", domain):
        raise Invalid(
            f"STRATAL_USER_DOMAIN={domain[:100]!r} is no domain.",
            hint="Write one that all names below lead to this machine, as in: user.example.org",
        )
    return domain


def trust(environ: Mapping[str, str] = os.environ) -> "Trust | None":
    """The STRATAL_OIDC_… variables; None without an issuer. Raises `Invalid`."""
    from stratal.identity.federation.model import Trust, grants_of

    issuer = environ.get("STRATAL_OIDC_ISSUER")
    if not issuer:
        return None
    client = environ.get("STRATAL_OIDC_CLIENT_ID")
    if not client:
        raise Invalid("STRATAL_OIDC_ISSUER is set, and STRATAL_OIDC_CLIENT_ID is not.")
    try:
        grants = grants_of(environ.get("STRATAL_OIDC_GROUPS", ""))
        again = min(max(float(environ.get("STRATAL_OIDC_CHECK_SECONDS") or 30), 1.0), 3600.0)
    except ValueError as error:
        raise Invalid(f"STRATAL_OIDC_GROUPS or STRATAL_OIDC_CHECK_SECONDS: {error}.") from error
    return Trust(
        issuer,
        client,
        environ.get("STRATAL_OIDC_CLIENT_SECRET", ""),
        grants,
        environ.get("STRATAL_OIDC_GROUPS_CLAIM") or "groups",
        environ.get("STRATAL_OIDC_SCOPES") or "openid profile email offline_access",
        again,
    )


def smtp(environ: Mapping[str, str] = os.environ) -> "Smtp | None":
    """STRATAL_SMTP_URL; None when no mail is sent. Raises `Invalid`."""
    from stratal.collab.talk.mail import smtp_of

    url = environ.get("STRATAL_SMTP_URL")
    try:
        return smtp_of(url) if url else None
    except ValueError as error:
        raise Invalid(f"STRATAL_SMTP_URL cannot be used: {error}.") from error


def webhook_networks(environ: Mapping[str, str] = os.environ) -> "tuple[Network, ...]":
    """STRATAL_WEBHOOK_NETWORKS. Raises `Invalid`."""
    from stratal.collab.talk.outgoing import networks_of

    try:
        return networks_of(environ.get("STRATAL_WEBHOOK_NETWORKS", ""))
    except ValueError as error:
        raise Invalid(
            f"STRATAL_WEBHOOK_NETWORKS: {error}.", hint="Write it as in: 10.0.0.0/8,192.168.1.7/32"
        ) from error


def zygotes(
    environ: Mapping[str, str] = os.environ, machine_bytes: int | None = None
) -> tuple[float, int, int]:
    """Idle seconds of warm interpreters, bytes of memory of all and of the idle ones. Raises `Invalid`.

    Two large libraries and what mlflow needs are half a GiB in one of them: with little memory such start cold.
    """
    memory, idle = environ.get("STRATAL_ZYGOTE_MEMORY"), environ.get("STRATAL_ZYGOTE_IDLE", "240")
    whole = machine_bytes or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit, resting = min(max(whole // 16, 512 << 20), 2 << 30), 128 << 20
    if memory is not None:
        try:
            limit = amounts.size(memory)
        except ValueError as error:
            raise Invalid(f"STRATAL_ZYGOTE_MEMORY: {error}") from error
        resting = limit // 4
    try:
        return amounts.seconds(idle), limit, resting
    except ValueError as error:
        raise Invalid(f"STRATAL_ZYGOTE_IDLE: {error}") from error


_HIDDEN = ("TOKEN", "SECRET", "KEY", "SMTP_URL", "DATABASE_URL")
"""Settings whose names end so hold secrets: that they are set is all that is shown."""
_OF_CLIENTS = {"STRATAL_URL", "STRATAL_API_KEY", "STRATAL_CONTEXT", "STRATAL_PROJECT"}


def told(settings: Settings, environ: Mapping[str, str] = os.environ) -> list[dict[str, object]]:
    """What the server runs with, for its admins: name, value, what it is, and where it was said. No secret."""
    given: dict[str, tuple[object, object, str]] = {
        "--host": (settings.host, "127.0.0.1", "The address it listens on."),
        "--port": (settings.port, DEFAULT_PORT, "The port it listens on."),
        "--hostname": (", ".join(settings.hostnames), "", "Names it answers to, too."),
        "--tls-cert": (str(settings.tls_certificate or ""), "", "The certificate it shows."),
        "--engine": (settings.engine, "local", "What jobs run on."),
    }
    found: list[dict[str, object]] = [
        {
            "name": name,
            "value": value,
            "what": what,
            "source": "default" if value == usual else "command line",
        }
        for name, (value, usual, what) in given.items()
    ]
    for name, what in SETTINGS.items():
        if name in _OF_CLIENTS:
            continue
        value = environ.get(name, "")
        hidden = value and name.endswith(_HIDDEN)
        source = "environment" if value else "default"
        found.append({"name": name, "value": "(set)" if hidden else value, "what": what, "source": source})
    return found


def log_level(environ: Mapping[str, str] = os.environ) -> str:
    """STRATAL_LOG_LEVEL, else info."""
    level = environ.get("STRATAL_LOG_LEVEL", "info").lower()
    return level if level in {"debug", "info", "warning", "error"} else "info"
