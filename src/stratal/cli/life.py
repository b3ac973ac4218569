"""``stratal up``, ``down`` and ``status``."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stratal.app.processes import Process, descendants, describe, end, is_alive
from stratal.app.record import check_binding, read_record
from stratal.app.settings import (
    DEFAULT_PORT,
    Home,
    Settings,
    convert,
    currency,
    database_url,
    log_level,
    user_domain,
)
from stratal.cli.output import home_option, human_bytes, json_option, print_json, print_table
from stratal.cli.shown import GrowTo, note
from stratal.kernel.errors import Conflict, Unavailable

if TYPE_CHECKING:
    from stratal.engines.local.shown import ShownZygote

_READY_SECONDS = 600.0
"""A large database is upgraded, and a slow disk read, before the server answers."""
_TELL_SECONDS = 15.0
_GRACE_SECONDS = 10.0


@click.command(epilog="Examples: stratal up --detach · stratal up --port 9000 --home /data/stratal")
@home_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=DEFAULT_PORT, show_default=True, type=click.IntRange(1, 65535))
@click.option(
    "--hostname", "hostnames", multiple=True, metavar="NAME", help="A further name this machine is called by."
)
@click.option(
    "--tls-cert", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Certificate (PEM)."
)
@click.option(
    "--tls-key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Its key (PEM)."
)
@click.option("--insecure", is_flag=True, help="Allow other machines in without TLS.")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="What jobs run on: this machine, or a pool of machines.",
)
@click.option(
    "--ray-interface",
    default="127.0.0.1",
    show_default=True,
    help="The one address of this machine that the pool listens on.",
)
@click.option(
    "--ray-port", type=click.IntRange(1, 65535), help="The pool's port (default: the one after --port)."
)
@click.option(
    "--ray-grow-to",
    type=GrowTo(),
    metavar="CPUS,MEMORY",
    help="Ask Ray for room up to this, e.g. 64,256GiB, for whoever adds machines on demand.",
)
@click.option("--detach", is_flag=True, help="Return once it is ready; it runs on in the background.")
def up(
    home: Path,
    host: str,
    port: int,
    hostnames: tuple[str, ...],
    tls_cert: Path | None,
    tls_key: Path | None,
    insecure: bool,
    engine: str,
    ray_interface: str,
    ray_port: int | None,
    ray_grow_to: tuple[float, int] | None,
    detach: bool,
) -> None:
    """Start the platform on this machine.

    The first start makes the data directory, its keys, the admin and the project `default`. Records are kept
    there in SQLite, or in the PostgreSQL database that STRATAL_DATABASE_URL names.
    """
    settings = Settings(
        home=Home(home.expanduser().absolute()),
        host=host,
        port=port,
        tls_certificate=tls_cert,
        tls_key=tls_key,
        insecure=insecure,
        log_level=log_level(),
        hostnames=hostnames,
        currency=currency(),
        user_domain=user_domain(),
        convert=convert(),
        database_url=database_url(),
        engine=engine,
        ray_interface=ray_interface,
        ray_port=ray_port,
        ray_grow_to=ray_grow_to,
    )
    check_engine(settings)
    if bool(tls_cert) != bool(tls_key):
        raise click.UsageError("--tls-cert and --tls-key go together.")
    if detach:
        _detach(settings)
        return
    from stratal.app.server import serve
    from stratal.app.wiring import Platform

    def announce(platform: Platform) -> None:
        if os.environ.get("STRATAL_DETACHED"):
            return
        # In a thread of its own: it asks the server, whose event loop is what called us.
        threading.Thread(target=_welcome, args=(settings, platform.founded.first), daemon=True).start()

    serve(settings, on_ready=announce)


def _detach(settings: Settings) -> None:
    """Start the server in a session of its own and wait until it answers."""
    check_binding(settings)
    settings.home.make()
    arguments = [sys.executable, "-m", "stratal.cli.main", "up", "--home", str(settings.home.root)]
    arguments += ["--host", settings.host, "--port", str(settings.port)]
    if settings.tls_certificate and settings.tls_key:
        arguments += ["--tls-cert", str(settings.tls_certificate), "--tls-key", str(settings.tls_key)]
    for name in settings.hostnames:
        arguments += ["--hostname", name]
    if settings.insecure:
        arguments.append("--insecure")
    if settings.engine != "local":
        arguments += ["--engine", settings.engine, "--ray-interface", settings.ray_interface]
        arguments += ["--ray-port", str(settings.ray_port)] if settings.ray_port else []
        if settings.ray_grow_to:
            arguments += ["--ray-grow-to", ",".join(str(most) for most in settings.ray_grow_to)]
    out = settings.home.log.with_name("server.out")
    with out.open("wb") as stream:
        server = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            cwd="/",
            env={**os.environ, "STRATAL_DETACHED": "1"},
        )
    begun = time.monotonic()
    told = 0.0
    while (waited := time.monotonic() - begun) < _READY_SECONDS:
        code = server.poll()
        if code is not None:
            click.echo(out.read_text(errors="replace").rstrip(), err=True)
            raise SystemExit(code or 1)
        record = read_record(settings.home)
        if record is not None and record["pid"] == server.pid:
            _welcome(settings, bool(record.get("first")))
            return
        if waited - told > _TELL_SECONDS:
            told = waited
            note(f"Still starting after {waited:.0f} s; its log: {settings.home.log}")
        time.sleep(0.02)
    raise Unavailable(
        f"The server is not ready after {_READY_SECONDS:.0f} s.",
        hint=f"It goes on starting: stratal status. To end it: kill {server.pid}. Its log: {settings.home.log}",
    )


def _welcome(settings: Settings, first: bool) -> None:
    from stratal.sdk import ApiError  # the client costs a third of a second: never before the server is ready

    click.echo(f"Stratal is ready at {settings.url}   (data in {settings.home.root})")
    if first:
        click.echo("First start: made the instance key, the admin and the project 'default'.")
    try:
        # The admin's own key, not STRATAL_API_KEY: that may belong to another instance.
        key = settings.home.admin_key.read_text().strip()
        click.echo(f"Console:  {settings.url}{_login_path(settings, key)}   (one-time link)")
    except (ApiError, OSError):
        click.echo("Console:  stratal login-link")
    click.echo('Next:     stratal demo      or      eval "$(stratal env)"')


def _login_path(settings: Settings, key: str) -> str:
    from stratal.sdk import Client

    return str(Client(settings.url, key).post("/login-links")["path"])


@click.command(epilog="Example: stratal down --keep-jobs")
@home_option
@click.option(
    "--keep-jobs", is_flag=True, help="Let running jobs go on; the next `stratal up` finds them again."
)
@json_option
def down(home: Path, keep_jobs: bool, as_json: bool) -> None:
    """Stop server, keeper and workloads."""
    place = Home(home.expanduser().absolute())
    record = read_record(place)
    was_running = False
    if record is not None and is_alive(int(record["pid"]), int(record["started"])):
        was_running = True
        if not end(int(record["pid"]), int(record["started"]), grace_seconds=15):
            raise Unavailable(f"The server (pid {record['pid']}) does not end.")
    if record is not None:
        place.server_record.unlink(missing_ok=True)
    if not keep_jobs and _end_pool(place):
        was_running = True
    if not keep_jobs and _end_keeper(place):
        was_running = True
    if as_json:
        print_json({"stopped": was_running, "home": str(place.root)})
    else:
        click.echo("Stopped." if was_running else f"Nothing was running on {place.root}.")


@click.command()
@home_option
@json_option
def status(home: Path, as_json: bool) -> None:
    """Show what is running, where, and how much memory it holds. Exit code 3 when nothing is."""
    place = Home(home.expanduser().absolute())
    record = read_record(place)
    running = record is not None and is_alive(int(record["pid"]), int(record["started"]))
    answer: dict[str, object] = {"state": "running" if running else "stopped", "home": str(place.root)}
    processes: list[Process] = []
    zygotes: list[ShownZygote] = []
    waiting: dict[int, str] = {}
    if record is not None and running:
        from stratal.engines.local.shown import waiting as waiting_of
        from stratal.engines.local.shown import zygotes as zygotes_of

        zygotes = zygotes_of(place.keeper)
        waiting = waiting_of(place.keeper)
        pids = [int(record["pid"]), *_keeper_pids(place), *_pool_pids(place)]
        pids += [child for pid in list(pids) for child in descendants(pid)]
        processes = [p for pid in dict.fromkeys(pids) if (p := describe(pid)) is not None]
        answer |= {"url": record["url"], "pid": record["pid"], "version": record["version"]}
        answer["database"] = record.get("database", str(place.database))
        answer["keeper_pid"] = next(iter(_keeper_pids(place)), None)
        answer["pss_bytes"] = sum(p.pss_bytes for p in processes)
        answer["processes"] = [
            {"pid": p.pid, "command": p.command, "pss_bytes": p.pss_bytes} for p in processes
        ]
        answer["zygotes"] = [
            {"pid": z.pid, "python": z.python, "imports": z.imports, "warm": z.warm, "pss_bytes": z.pss_bytes}
            for z in zygotes
        ]
        answer["waiting_for_a_job"] = [{"pid": pid, "python": python} for pid, python in waiting.items()]
    if as_json:
        print_json(answer)
    elif running and record is not None:
        click.echo(
            f"Running at {record['url']} (pid {record['pid']}, version {record['version']}), data in {place.root}"
        )
        click.echo(f"Records in {answer['database']}")
        called = {zygote.pid: _called(zygote) for zygote in zygotes}
        called |= {pid: f"waits for the next job of environment {_short(of)}" for pid, of in waiting.items()}
        for one in _strained(str(record["url"]), place):
            click.echo(
                f"Budget of project {one['project']}: {one['state']}, {one['spent']} of {one['amount']} spent"
            )
        print_table(
            ["Pid", "Memory", "Process"],
            [(p.pid, human_bytes(p.pss_bytes), called.get(p.pid, p.command)[:90]) for p in processes],
            empty="",
            right=(0, 1),
        )
        click.echo(
            f"Memory in all: {human_bytes(sum(p.pss_bytes for p in processes))} (proportional set size)"
        )
    else:
        click.echo(f"Nothing is running on {place.root}. Start it with: stratal up --detach")
    if not running:
        raise SystemExit(3)


def _called(zygote: "ShownZygote") -> str:
    """A zygote, in words."""
    environment = _short(zygote.python)
    loaded = sorted({name.partition(".")[0] for name in zygote.imports})
    doing = f"with {', '.join(loaded)}" if loaded else "with nothing but Python"
    return f"zygote of environment {environment}, {doing if zygote.warm else 'loading'}"


def _short(python: str) -> str:
    return Path(python).parent.parent.name[:12]


def _strained(url: str, place: Home) -> list[dict[str, str]]:
    """The budgets of which most is spent; none when the platform cannot be asked right now."""
    from stratal.sdk import ApiError, Client

    try:
        told = Client(url, place.admin_key.read_text().strip()).get("/budgets")["budgets"]
    except (ApiError, Unavailable, OSError):
        return []
    return [one for one in told if one["state"] != "ok"]


def _keeper_pids(place: Home) -> list[int]:
    """The keeper's pid, as it wrote it into its lock file, while it holds that lock."""
    from stratal.engines.local.link import keeper_lives

    if not keeper_lives(place.keeper):
        return []
    written = (place.keeper / "keeper.lock").read_text().strip()
    return [int(written)] if written.isdigit() else []


def check_engine(settings: Settings) -> None:
    """Raise `Conflict` when jobs would be left behind on the other engine, `Unavailable` when there is no Ray."""
    from stratal.engines.local.link import keeper_lives

    if settings.engine == "ray":
        from stratal.engines.ray.pool import require_ray

        require_ray()
    elif keeper_lives(settings.home.ray, "bridge"):
        raise Conflict(
            f"The pool of {settings.home.root} runs still, and its jobs with it.",
            hint="Go on with: stratal up --engine ray. Or end it first: stratal down",
        )


def _pool_pids(place: Home) -> list[int]:
    """The bridge's and the head's, while they live."""
    from stratal.engines.local.link import keeper_lives

    found = []
    for folder, name in ((place.ray, "bridge"), (place.ray / "node", "node")):
        if keeper_lives(folder, name):
            written = (folder / f"{name}.lock").read_text().strip()
            found += [int(written)] if written.isdigit() else []
    return found


def _end_pool(place: Home) -> bool:
    """Stop every workload of the pool, its head and its bridge; True when there was one. Other machines stay up, alone."""
    from stratal.engines.local.link import keeper_lives

    if not any(
        keeper_lives(folder, name) for folder, name in ((place.ray, "bridge"), (place.ray / "node", "node"))
    ):
        return False
    from stratal.engines.ray.adapter import RayEngine
    from stratal.engines.ray.settings import BridgeSettings

    engine = RayEngine(place.ray, BridgeSettings.read(place.ray / "pool.json"))

    async def shut_down() -> None:
        await engine.connect()
        await engine.shutdown(kill=True, grace_seconds=_GRACE_SECONDS)

    asyncio.run(shut_down())
    deadline = time.monotonic() + _GRACE_SECONDS + 5
    while keeper_lives(place.ray, "bridge") and time.monotonic() < deadline:
        time.sleep(0.02)
    return True


def _end_keeper(place: Home) -> bool:
    """Stop every workload and the keeper; True when there was one. A killed keeper's workloads are found as well."""
    from stratal.engines.local.adapter import LocalEngine
    from stratal.engines.local.link import keeper_lives

    attempts = place.keeper / "attempts"
    if not keeper_lives(place.keeper) and not (attempts.is_dir() and any(attempts.iterdir())):
        return False
    engine = LocalEngine(place.keeper, place.root, place.platform_socket)

    async def shut_down() -> None:
        await engine.connect()
        await engine.shutdown(kill=True, grace_seconds=_GRACE_SECONDS)

    asyncio.run(shut_down())
    deadline = time.monotonic() + _GRACE_SECONDS + 5
    while keeper_lives(place.keeper) and time.monotonic() < deadline:
        time.sleep(0.02)
    return True
