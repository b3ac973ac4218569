"""``stratal doctor``: what is well, what is not enforced on this machine, and what to do about it."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click

from stratal.app.processes import is_alive
from stratal.app.record import read_record
from stratal.app.settings import Home, database_url
from stratal.app.settings import zygotes as limits_of_zygotes
from stratal.cli.output import home_option, human_bytes, json_option, print_json
from stratal.engines.local.probe import Bubblewrap, probe
from stratal.engines.local.shown import why_no_zygotes
from stratal.kernel.errors import StratalError

Level = Literal["ok", "note", "problem"]
_MARKS: dict[Level, tuple[str, str]] = {
    "ok": ("●", "green"),
    "note": ("▲", "yellow"),
    "problem": ("■", "red"),
}
_LOW_DISK = 5 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: `ok`, a `note` (works, but know this), or a `problem`; `advice` says what helps."""

    name: str
    level: Level
    detail: str
    advice: str = ""


@click.command(epilog="Exit code 0 unless there is a problem; notes do not count.")
@home_option
@json_option
def doctor(home: Path, as_json: bool) -> None:
    """Check the installation and say what is and is not enforced here."""
    findings = list(_examine(Home(home.expanduser().absolute())))
    if as_json:
        print_json({"findings": [asdict(f) for f in findings], "healthy": _healthy(findings)})
    else:
        for finding in findings:
            mark, colour = _MARKS[finding.level]
            click.echo(f"{click.style(mark, fg=colour)} {finding.name:<22} {finding.detail}")
            if finding.advice:
                click.echo(f"  {'':<22} {click.style(finding.advice, dim=True)}")
    raise SystemExit(0 if _healthy(findings) else 1)


def _healthy(findings: list[Finding]) -> bool:
    return all(finding.level != "problem" for finding in findings)


def _examine(home: Home) -> Iterator[Finding]:
    yield Finding("Python", "ok", f"{sys.version.split()[0]} at {sys.executable}")
    yield _git()
    yield _uv()
    yield from _home(home)
    yield _database(home)
    yield _server(home)
    yield from _isolation()


def _git() -> Finding:
    path = shutil.which("git")
    if path is None:
        return Finding("git", "note", "not installed", "Jobs will not record a commit or a dirty diff.")
    return Finding("git", "ok", path)


def _uv() -> Finding:
    import uv

    path = uv.find_uv_bin()
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    return Finding("uv", "ok", version)


def _home(home: Home) -> Iterator[Finding]:
    if not home.root.exists():
        yield Finding("data directory", "note", f"{home.root} does not exist yet", "stratal up makes it.")
        return
    if home.root.stat().st_mode & 0o077:
        yield Finding("data directory", "problem", f"{home.root} is open to others", f"chmod 700 {home.root}")
    else:
        yield Finding("data directory", "ok", str(home.root))
    keys = home.master_key.parent
    exposed = [p for p in keys.iterdir() if p.stat().st_mode & 0o077] if keys.exists() else []
    if exposed:
        names = " ".join(str(p) for p in exposed)
        yield Finding("key files", "problem", f"readable by others: {names}", f"chmod 600 {names}")
    free = shutil.disk_usage(home.root).free
    if free < _LOW_DISK:
        yield Finding("disk", "note", f"{human_bytes(free)} free", "Environments and data need room.")
    else:
        yield Finding("disk", "ok", f"{human_bytes(free)} free")


def _database(home: Home) -> Finding:
    """Where the records are, and whether they can be read now. A running server says so of its own."""
    from stratal.app.database import read_bond
    from stratal.app.schema import current_revision, newest_revision

    url, bond, record = database_url(), read_bond(home), read_record(home)
    running = record is not None and is_alive(int(record["pid"]), int(record["started"]))
    if url is None and bond is not None:
        where = f"PostgreSQL at {bond.database}"
        if running:
            return Finding("database", "ok", where)
        return Finding("database", "note", where, "stratal up needs STRATAL_DATABASE_URL to reach it.")
    if url is None:
        revision = current_revision(home.database)
        known = f"schema {revision}, newest {newest_revision()}" if revision else "made by stratal up"
        return Finding("database", "ok", f"SQLite at {home.database} ({known})")
    return _postgres(url)


def _postgres(url: str) -> Finding:
    try:
        from stratal.kernel.database.connecting import Target

        target = Target(url)
        with target.connect() as connection:
            version = connection.execute("SHOW server_version").fetchone()
    except StratalError as error:
        return Finding("database", "problem", error.message, error.hint)
    return Finding("database", "ok", f"PostgreSQL {version[0] if version else ''} at {target}")


def _server(home: Home) -> Finding:
    from stratal.sdk import ApiError, Client

    record = read_record(home)
    if record is None or not is_alive(int(record["pid"]), int(record["started"])):
        return Finding("server", "note", "not running", "stratal up --detach")
    try:
        who = Client(str(record["url"]), home.admin_key.read_text().strip()).get("/whoami")
    except (ApiError, OSError) as error:
        return Finding("server", "problem", f"does not answer: {error}", f"Its log: {home.log}")
    return Finding("server", "ok", f"answers at {record['url']} as {who['name']} (pid {record['pid']})")


def _isolation() -> Iterator[Finding]:
    found = probe()
    box = found.bubblewrap
    if box.usable and box.network:
        yield Finding(
            "isolation of jobs", "ok", f"bubblewrap at {box.path}, network closed but for the platform"
        )
    elif box.usable:
        yield Finding("isolation of jobs", "note", f"bubblewrap at {box.path}; network open: {box.why_not}")
    else:
        yield Finding(
            "isolation of jobs",
            "note",
            f"not isolated: {box.why_not}",
            "Install bubblewrap. Until then jobs can read this user's files, and `stratal why` says so.",
        )
    yield _quick_starts(box)
    if found.cgroup.version:
        yield Finding("memory limits", "ok", f"cgroup v{found.cgroup.version} at {found.cgroup.path}")
    else:
        yield Finding(
            "memory limits",
            "note",
            f"by watching, not by the kernel: {found.cgroup.why_not}",
            "A sudden jump may overshoot.",
        )
    if found.landlock:
        yield Finding("landlock", "ok", f"ABI {found.landlock}: a second fence around files")
    else:
        yield Finding("landlock", "note", "this kernel has none", "bubblewrap alone fences files.")


def _quick_starts(box: Bubblewrap) -> Finding:
    """Whether jobs and replicas can be forked from interpreters that are kept warm."""
    name = "warm starts"
    try:
        idle, memory, _ = limits_of_zygotes()
    except StratalError as error:
        return Finding(name, "problem", error.message, error.hint or "")
    why_none = why_no_zygotes(box, memory)
    if why_none:
        return Finding(name, "note", f"none: {why_none}", "Jobs and replicas start cold: a second or more.")
    return Finding(
        name, "ok", f"forks of interpreters kept for {idle:g} s, in at most {human_bytes(memory)} of memory"
    )
