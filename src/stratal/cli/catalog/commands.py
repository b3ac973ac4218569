"""The commands of the catalogue."""

from typing import Any
from urllib.parse import quote

import click

from stratal.cli.catalog import asking
from stratal.cli.catalog.bench import measure
from stratal.cli.catalog.sets import FILES, load_sets, read_sample
from stratal.cli.deploy import follow
from stratal.cli.drawing import keep
from stratal.cli.output import human_bytes, json_option, print_json, print_table, project_option
from stratal.sdk import ApiError, Client

_KEPT = {"say": ("said", ".wav"), "draw": ("drawn", ".png")}
"""What is answered in files, and what they are called."""


@click.command(
    "catalog", epilog="Examples: stratal models catalog · stratal models catalog ocr · stratal models try ocr"
)
@click.argument("name", required=False)
@project_option
@json_option
def catalog(name: str | None, project: str | None, as_json: bool) -> None:
    """List what pre-trained models there are by task, or show one: where it is from, how well it does, its limits."""
    client = Client(project=project)
    if name is not None:
        entry = client.get(f"/catalog/{quote(name, safe='')}")
        print_json(entry) if as_json else _show(entry)
        return
    found = client.get("/catalog")
    if as_json:
        print_json(found)
        return
    print_table(
        ["Task", "What", "Model", "State", "Licence", "Size"],
        [
            (
                task["name"],
                task["title"],
                ", ".join(entry["name"] for entry in task["entries"]),
                ", ".join(dict.fromkeys(entry["label"] for entry in task["entries"])) or task["label"],
                ", ".join(entry["licence"] for entry in task["entries"]),
                ", ".join(human_bytes(entry["size"]) for entry in task["entries"]),
            )
            for task in found["tasks"]
        ],
        empty="The catalogue is empty.",
        right=(5,),
    )
    click.echo(
        "offline: answers without a network once its package is installed. download: fetched from the hub that the "
        "server is set to, when it is pulled first. needs-model: bring your own."
    )


def _show(entry: dict[str, Any]) -> None:
    click.echo(f"{entry['title']}\ntask {entry['task']}, {entry['label']}, {human_bytes(entry['size'])}")
    for what in ("source", "revision", "licence", "languages"):
        if entry[what]:
            click.echo(f"{what}: {entry[what]}")
    for side in ("inputs", "outputs"):
        for port in entry[side]:
            click.echo(f"{side[:-1]} {port['name']} ({port['datatype']}): {port['meaning']}")
    click.echo("packages: " + " ".join(entry["requirements"]))
    for one in entry["measured"]:
        click.echo(f"measured: {one['metric']} {one['value']:.3g} on {one['sample']} ({one['command']})")
    for limit in entry["limits"]:
        click.echo(click.style(f"limit: {limit}", fg="yellow"))
    print_table(["File of weights", "SHA-256"], entry["checksums"].items(), empty="")
    if entry["trusts_first"]:
        click.echo(
            "Checksums of its other files are recorded when they are fetched first, and must be the same ever after."
        )


@click.command(
    "pull", epilog="Examples: stratal models pull embed · stratal models pull hf:org/name@revision"
)
@click.argument("name", metavar="ENTRY|TASK|hf:ORG/NAME[@REVISION]")
@click.option("--as", "as_name", help="For hf:…, the model's name here. Default: its own.")
@click.option(
    "--only", metavar="PATTERN", help="For hf:…, of the files of weights those like this: '*Q4_K_M*'."
)
@click.option(
    "--allow-pickle", is_flag=True, help="For hf:…, take pickles too. Opening one runs code; owners may."
)
@project_option
@json_option
def pull(
    name: str, as_name: str | None, only: str | None, allow_pickle: bool, project: str | None, as_json: bool
) -> None:
    """Make a model of the catalogue, or of the hub that the server is set to, one of the project's: checked and pinned."""
    client = Client(project=project)
    if not name.startswith("hf:"):
        if as_name or allow_pickle or only:
            raise click.UsageError("--as, --only and --allow-pickle are for hf:ORG/NAME.")
        made = asking.pull(client, name)
    else:
        body = {"source": name, "name": as_name, "only": only, "allow_pickle": allow_pickle}
        made = client.request("POST", client.path("/catalog/pulls"), json=body, timeout=asking.PULL_SECONDS)
    if as_json:
        print_json(made)
        return
    click.echo(f"{made['uri']} is in the project's registry.")
    if not name.startswith("hf:"):
        click.echo(f"Next: stratal models deploy {name} --name NAME")
        return
    click.echo(f"{made['files']} files of commit {made['commit']}")
    for label in made["labels"]:
        click.echo(click.style(f"label: {label}", fg="yellow"))
    for one in made["left_out"]:
        click.echo(click.style(f"left out {one['path']}: {one['reason']}", dim=True))
    click.echo(f"Next: stratal deploy {made['uri']} --name NAME")


@click.command("deploy", epilog="Example: stratal models deploy ocr --name reader")
@click.argument("name", metavar="ENTRY|TASK")
@click.option("--name", "endpoint", help="The endpoint. Default: the entry's name.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Return when it answers, or failed.")
@project_option
@json_option
def deploy(name: str, endpoint: str | None, wait: bool, project: str | None, as_json: bool) -> None:
    """Pull a model of the catalogue and deploy it to an endpoint."""
    client = Client(project=project)
    made = asking.pull(client, name)
    asked = {"name": endpoint or made["name"], "model": made["uri"]}
    follow(client, client.post(client.path("/endpoints"), asked), wait=wait, as_json=as_json)


@click.command(
    "try",
    epilog='Examples: stratal models try language · stratal models try sentiment "I like it" · '
    "stratal models try ocr scan.png",
)
@click.argument("name", metavar="ENTRY|TASK")
@click.argument("given", metavar="[TEXT|FILE]...", nargs=-1)
@click.option(
    "--with", "beside", metavar="NAME=VALUE", multiple=True, help="Said beside: labels=news,sport · voice=de."
)
@project_option
@json_option
def try_(
    name: str, given: tuple[str, ...], beside: tuple[str, ...], project: str | None, as_json: bool
) -> None:
    """Ask a model of the catalogue about your text or file, or about the sample that comes with it.

    Deploys it to the endpoint of its name when there is none yet; the endpoint sleeps when nobody asks.
    """
    client = Client(project=project)
    entry = client.get(f"/catalog/{quote(name, safe='')}")
    task, sample = entry["task"], load_sets()["samples"][entry["task"]]
    if given:
        rows = [read_sample(one) if task in FILES else one for one in given]
    else:
        rows = [read_sample(sample["file"])] if "file" in sample else sample["inputs"]
        if not as_json:
            click.echo(f"Asking about {sample['about']}.", err=True)
    said = asking.said_beside(entry, beside) or ({} if given else sample.get("beside", {}))
    asking.ensure(client, entry, quiet=as_json)
    answer = asking.ask(client, entry, rows, said)
    if as_json:
        expected = None if given else sample.get("expected")
        print_json({"task": task, "model": entry["name"], "expected": expected, **answer})
        return
    if task in _KEPT:
        keep(answer["predictions"], *_KEPT[task])
        return
    for question, told in zip(
        given or sample.get("inputs", [sample.get("file")]), answer["predictions"], strict=True
    ):
        click.echo(asking.shown(task, str(question), told))
    if task == "embed":
        asking.show_closeness(answer["predictions"])
    click.echo(click.style(f"prediction {answer['prediction_id']}", dim=True), err=True)


@click.command("bench", epilog="Example: stratal models bench language")
@click.argument("name", metavar="ENTRY|TASK")
@project_option
@json_option
def bench(name: str, project: str | None, as_json: bool) -> None:
    """Measure a model of the catalogue on the set that comes with it, which no model was chosen by."""
    client = Client(project=project)
    entry = client.get(f"/catalog/{quote(name, safe='')}")
    sets = load_sets()
    if entry["task"] not in sets:
        raise ApiError(404, "no_set", f"There is no set for {entry['task']!r} here: {entry['limits'][-1]}")
    asking.ensure(client, entry, quiet=as_json)
    hears: dict[str, Any] | None = None
    if entry["task"] == "say":  # whether words are understood is told by a model that hears them
        hears = client.get("/catalog/transcribe")
        asking.ensure(client, hears, quiet=as_json)

    def ask(rows: list[str]) -> list[Any]:
        beside = {"labels": sets["sort"]["labels"]} if entry["task"] == "sort" else None
        told: list[Any] = asking.ask(client, entry, rows, beside)["predictions"]
        return told if hears is None else asking.ask(client, hears, told)["predictions"]

    found = measure(entry["task"], sets[entry["task"]], ask)
    result = {"task": entry["task"], "model": entry["name"], "set": sets[entry["task"]]["about"], **found}
    if as_json:
        print_json(result)
        return
    click.echo(f"{entry['name']}: {found['metric']} {found['value']:.3f}")
    click.echo(f"on {result['set']} ({found['count']} questions)")
    for miss in found["misses"]:
        click.echo(click.style(f"  missed: {miss}", dim=True))
