"""What ``stratal function`` and ``stratal app`` have in common: code that is deployed, revision after revision."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from stratal.app.settings import home_directory
from stratal.cli.output import human_bytes, print_error, print_json, print_table
from stratal.cli.run import requirements_of, tell_code, variable_of
from stratal.cli.shown import Duration, Gpus, Size, ago, lasted, note
from stratal.kernel.errors import Invalid
from stratal.kernel.names import check_name
from stratal.sdk import Client
from stratal.sdk.functions import answering
from stratal.sdk.worktree import TreeError, WorkTree, read_worktree

Json = dict[str, Any]
Command = TypeVar("Command", bound=Callable[..., Any])

wait_option = click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Return when it answers, or failed."
)


def deploy_options(
    noun: str, asks: str, *, at_once: str, most: int, usual: int, package: str
) -> Callable[[Command], Command]:
    """The options that any deployment takes, in the words of its noun: nobody `asks` it, so much `at_once`."""
    options = [
        click.option(
            "--min",
            "least",
            type=click.IntRange(0, 256),
            default=0,
            help=f"Replicas when nobody {asks} (default 0).",
        ),
        click.option(
            "--max",
            "most",
            type=click.IntRange(1, 256),
            help="At most so many replicas (default: --min, at least 1).",
        ),
        click.option(
            "--max-concurrency",
            type=click.IntRange(1, most),
            default=usual,
            help=f"{at_once} at once in a replica (default {usual}).",
        ),
        click.option(
            "--idle",
            type=Duration(),
            default="5m",
            help=f"Stop a replica that nobody {asks} after so long (default 5m; 0: never).",
        ),
        click.option(
            "--memory", type=Size(), default="512MiB", help="Memory that a replica may use (default 512MiB)."
        ),
        click.option(
            "--gpus", type=Gpus(), metavar="[TYPE:]N", help="Whole GPUs for each replica: 1 or h100:2."
        ),
        click.option(
            "-r",
            "--requirements",
            multiple=True,
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="A file of requirements to install.",
        ),
        click.option(
            "--with",
            "packages",
            multiple=True,
            metavar="PKG",
            help=f"A package to install, e.g. {package!r}.",
        ),
        click.option(
            "--env",
            "variables",
            multiple=True,
            metavar="K=V",
            help=f"A variable for the {noun}; K alone passes yours on.",
        ),
        click.option(
            "--public", is_flag=True, help=f"Nobody needs a key: whoever reaches the platform {asks} it."
        ),
        wait_option,
    ]

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def deployed(
    noun: str,
    deploy: Callable[..., Json],
    words: dict[str, str],
    target: str,
    name: str,
    *,
    requirements: tuple[Path, ...],
    packages: tuple[str, ...],
    variables: tuple[str, ...],
    gpus: tuple[int, str | None] | None,
    wait: bool,
    project: str | None,
    as_json: bool,
    **wishes: Any,
) -> Json:
    """Send the code around `target` and deploy it as `name`; what is not to be sent or read ends the command.

    `words` say what goes on in each state that a revision passes.
    """
    env = dict(variable_of(text) for text in variables)
    wanted = "".join(requirements_of(path) for path in requirements) + "".join(f"{p}\n" for p in packages)
    try:
        called = check_name(noun, name)
    except Invalid as error:
        raise click.BadParameter(f"{error.message} {error.hint}", param_hint="--name") from None
    try:
        tree, target = _code_of(noun, target)
        client = Client(project=project)
        tell_code(tree)
        return deploy(
            client,
            target,
            tree=tree,
            name=called,
            requirements=wanted,
            env=env,
            wait=wait,
            said=None if as_json else _saying(words),
            gpus=gpus[0] if gpus else 0,
            gpu_type=gpus[1] if gpus else None,
            **wishes,
        )
    except TreeError as error:
        print_error(error.message, error.hint)
    except OSError as error:
        print_error(f"{error.filename or 'A file'} cannot be read: {error.strerror}.")
    raise SystemExit(1)


def rolled_back(
    noun: str,
    rollback: Callable[[Client, str, int | None], Json],
    words: dict[str, str],
    name: str,
    revision: int | None,
    wait: bool,
    project: str | None,
    as_json: bool,
) -> Json:
    """Deploy again what `revision` was (None: the one that answered before)."""
    client = Client(project=project)
    made = rollback(client, name, revision)
    return answering(client, f"{noun}s", made, None if as_json else _saying(words)) if wait else made


def _saying(words: dict[str, str]) -> Callable[[str], None]:
    """Says each state that a revision passes."""
    return lambda state: note(f"{words.get(state, state)} …")


def _code_of(noun: str, target: str) -> tuple[WorkTree, str]:
    """The tree to send, and the target within its folder. Raises `TreeError`."""
    hint = f"FILE.py:{noun.upper()}"
    file, colon, attribute = target.rpartition(":")
    if not colon or not file or not attribute:
        raise click.BadParameter("write the file and the name in it, as in app.py:handler", param_hint=hint)
    folder = Path.cwd()
    if file.endswith(".py"):
        path = Path(file).resolve()
        if not path.is_file():
            raise click.BadParameter(f"there is no file {file}", param_hint=hint)
        if not path.is_relative_to(folder.resolve()):
            folder = path.parent
        file = path.relative_to(folder.resolve()).as_posix()
    return read_worktree(folder, without=home_directory()), f"{file}:{attribute}"


def tell_rollout(noun: str, made: Json, how: str, wait: bool, as_json: bool) -> None:
    """Say how a deployment ended; `how` it is asked, where it answers."""
    latest = made["latest"]
    if as_json:
        print_json(made)
    elif latest["state"] == "active":
        click.echo(f"{noun.title()} {made['name']} (revision {latest['number']}) answers at {made['url']}")
        click.echo(how)
    elif not wait:
        click.echo(
            f"Revision {latest['number']} of {made['name']} is on its way: stratal {noun} show {made['name']}"
        )
    if wait and latest["state"] in {"failed", "superseded"}:
        still = f"Revision {made['active']['number']} goes on answering." if made["active"] else ""
        print_error(f"Revision {latest['number']} {latest['state']}: {latest['failure']}", still)
        raise SystemExit(1)


def print_deployed(noun: str, found: list[Json], example: str) -> None:
    """All of a project."""
    print_table(
        ["Name", "State", noun.title(), "Revision", "Replicas", "Address"],
        [
            (
                one["name"] + (" (public)" if one["public"] else ""),
                one["state"],
                one["target"],
                one["revision"],
                one["replicas"],
                one["url"],
            )
            for one in found
        ],
        empty=f"No {noun}s yet. Deploy one with: stratal {noun} deploy {example}",
        right=(3, 4),
    )


def print_one(seen: Json, head: list[tuple[str, str]], tail: list[tuple[str, str]]) -> None:
    """What one is: `head`, what its revision says of itself, `tail`, and what went wrong last."""
    revision = seen["active"] or seen["latest"]
    idle = lasted(revision["idle_seconds"]) if revision["idle_seconds"] else ""
    sleeps = f"stopped {idle} after the last request" if idle else "never stopped for being idle"
    source = revision["source"]
    code = revision["snapshot"][:12]
    code += f", commit {source['commit'][:12]}" if source.get("commit") else ""
    code += ", with uncommitted changes" if source.get("commit") and source.get("dirty") else ""
    lines = [
        *head,
        ("Runs", f"{revision['target']} (revision {revision['number']}, code {code})"),
        ("Environment", revision["environment"] or "-"),
        ("Replicas", f"{seen['replicas']} now, {revision['min']} to {revision['max']}, {sleeps}"),
        ("Memory", human_bytes(revision["memory_bytes"])),
        ("GPUs", f"{revision['gpus']} {revision['gpu_type'] or ''}".strip() if revision["gpus"] else "none"),
        *tail,
    ]
    if seen["latest"]["state"] == "failed":
        lines.append(("Failed", f"revision {seen['latest']['number']}: {seen['latest']['failure']}"))
    elif seen["failure"]:
        lines.append(("Trouble", seen["failure"]))
    for label, text in lines:
        click.echo(f"{label + ':':<13}{text}")


def askers(seen: Json, revision: Json, people: str) -> str:
    """Who may ask it: anybody, or `people`; and why not anybody although it was wished."""
    if not revision["public"]:
        return people
    if not seen["left"]:
        return "anybody"
    return f"{people}; anybody again once somebody who is here deploys it: {seen['left']} has left"


def print_revisions(history: list[Json]) -> None:
    """The newest ten."""
    click.echo()
    print_table(
        ["Revision", "State", "Runs", "Deployed", "By"],
        [(r["number"], r["state"], r["target"], ago(r["created_at"]), r["created_by"]) for r in history[:10]],
        empty="",
        right=(0,),
    )
