"""``stratal gpus``."""

from typing import Any

import click

from stratal.cli.output import human_bytes, json_option, print_json, print_table, project_option
from stratal.sdk import Client


@click.command(
    epilog="Ask for some with: stratal run --gpus 1 -- python train.py · stratal run --gpus h100:2 -- …"
)
@project_option
@json_option
def gpus(project: str | None, as_json: bool) -> None:
    """List the GPUs, what they are doing, and which jobs and replicas hold them."""
    client = Client(project=project)
    nodes = client.get(client.path("/nodes"))["nodes"]
    found = [{**gpu, "node": node["name"]} for node in nodes for gpu in node["gpus"]]
    if as_json:
        print_json({"gpus": [{**gpu, "name": gpu["name"]} for gpu in found]})
        return
    why = "; ".join(node["why_no_gpus"] for node in nodes if node["why_no_gpus"])
    rows = [
        (
            gpu["type"] + (" (fake)" if gpu["fake"] else ""),
            gpu["name"],
            human_bytes(gpu["memory_bytes"]),
            "" if gpu["busy"] is None else f"{gpu['busy']:.0%}",
            "" if gpu["memory_used_bytes"] is None else human_bytes(gpu["memory_used_bytes"]),
            _holder(gpu),
            gpu["uuid"],
        )
        for gpu in found
    ]
    headers = ["Type", "Name", "Memory", "Busy", "In use", "Held by", "UUID"]
    print_table(headers, rows, empty=f"No GPUs: {why}." if why else "No GPUs.", right=(2, 3, 4))


def _holder(gpu: dict[str, Any]) -> str:
    if not gpu["held"]:
        return "free"
    if gpu["project"] is None:
        return "another project"
    return f"{gpu['replica'] or 'job {}'.format(gpu['job'])} ({gpu['project']})"
