"""``stratal finetune``: a head on a frozen encoder, or adapters in a transformer, trained by a job and held against
the base model."""

import json
import time
from typing import Any
from urllib.parse import quote

import click

from stratal.cli.catalog import asking
from stratal.cli.output import json_option, print_json, print_table, project_option
from stratal.sdk import ApiError, Client

_POLL_SECONDS = 0.5
_MARK = "RESULT "


@click.command(
    "finetune",
    epilog="Examples: stratal finetune classify s3://data/reviews.jsonl --name reviews · "
    "stratal finetune embed s3://data/pairs.jsonl --first question --second answer --name faq",
)
@click.argument("aim", type=click.Choice(["classify", "embed"]))
@click.argument("source", metavar="s3://BUCKET/KEY")
@click.option("--name", required=True, help="What the new model is called.")
@click.option("--first", default="text", show_default=True, help="What the text is called in the rows.")
@click.option("--second", help="What its class or the other text is called. Default: label, or other.")
@click.option(
    "--base",
    metavar="models:/NAME/VERSION",
    help="What is fine-tuned: a transformer of the registry. Default: the catalogue's sentence encoder.",
)
@click.option(
    "--method",
    type=click.Choice(["head", "lora"]),
    help="A small head on the frozen encoder, or adapters in the transformer itself (peft). Default: lora where there "
    "is a GPU or no head is put on the base.",
)
@click.option(
    "--epochs", default=5, show_default=True, help="For lora: how often the rows are gone through at most."
)
@click.option("--rate", default=5e-4, show_default=True, help="For lora: the learning rate.")
@click.option("--seed", default=0, show_default=True, help="Chooses which fifth of the rows is held out.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Return when it is done, or failed.")
@project_option
@json_option
def finetune(
    aim: str,
    source: str,
    name: str,
    first: str,
    second: str | None,
    base: str | None,
    method: str | None,
    epochs: int,
    rate: float,
    seed: int,
    wait: bool,
    project: str | None,
    as_json: bool,
) -> None:
    """Fine-tune a model of texts on rows of your own.

    SOURCE holds lines of JSON: a text and its class (classify), or two texts that belong together (embed). By the
    method head the catalogue's sentence encoder stays as it is and a head is fitted on its embeddings; by lora
    adapters are trained in the transformer and merged. What came of it is measured on a fifth of the rows beside
    the base model, and registered as the next version of NAME.
    """
    client = Client(project=project)
    if base is None:
        asking.ensure(client, client.get("/catalog/embed"), quiet=as_json)
    body: dict[str, object] = {
        "aim": aim,
        "name": name,
        "source": source,
        "first": first,
        "second": second,
        "seed": seed,
    }
    body |= {"method": method, "epochs": epochs, "rate": rate, **({"base": base} if base else {})}
    made = client.post(client.path("/finetunes"), body)
    if not wait:
        print_json(made) if as_json else click.echo(f"Job {made['job']} fine-tunes {name}.")
        return
    if not as_json:
        click.echo(f"Job {made['job']} fine-tunes it: stratal job logs {made['job']} --follow", err=True)
    address = client.path(f"/jobs/{made['job']}")
    while (job := client.get(address))["state"] in {"queued", "starting", "running"}:
        time.sleep(_POLL_SECONDS)
    result = _result(client, address) if job["state"] == "succeeded" else None
    if result is None:
        raise ApiError(
            409, "not_trained", f"Job {made['job']} {job['state']}.", f"See: stratal job logs {made['job']}"
        )
    if as_json:
        print_json({**result, "job": made["job"], "uri": f"models:/{name}/{result['version']}"})
        return
    _show(result)
    click.echo(f"Next: stratal deploy models:/{quote(name)}/{result['version']} --name {name}")


def _result(client: Client, address: str) -> dict[str, Any] | None:
    """What the job told at its end, from its log."""
    with client.stream("GET", f"{address}/logs") as answer:
        text = answer.read().decode(errors="replace")
    told = [line.removeprefix(_MARK) for line in text.splitlines() if line.startswith(_MARK)]
    found = json.loads(told[-1]) if told else None
    return found if isinstance(found, dict) else None


def _show(result: dict[str, Any]) -> None:
    metrics = result["metrics"]
    names = [name for name in metrics if f"base_{name}" in metrics]
    click.echo(f"models:/{result['model']}/{result['version']}, run {result['run']}")
    print_table(
        [f"On {metrics['held_out_rows']} held-out rows", "Base model", "Fine-tuned"],
        [
            (name.replace("_", " "), f"{metrics[f'base_{name}']:.3f}", f"{metrics[name]:.3f}")
            for name in names
        ],
        empty="",
        right=(1, 2),
    )
