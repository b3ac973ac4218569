"""Endpoints: the list, and one with its revisions, what it takes and gives, and how to call it."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

from starlette.responses import Response

from stratal.console.latency import Picture, drawn
from stratal.console.listing import Column, arrange
from stratal.console.native import Json, segment
from stratal.console.render import Ways
from stratal.console.view import View

COLUMNS = (
    Column("name", "Endpoint", lambda endpoint: endpoint["name"]),
    Column("state", "State", lambda endpoint: endpoint["state"]),
    Column("model", "Model", lambda endpoint: f"{endpoint.get('model')}/{endpoint.get('version')}"),
    Column("revision", "Revision", lambda endpoint: endpoint.get("revision"), numeric=True),
    Column("replicas", "Replicas", lambda endpoint: endpoint.get("awake"), numeric=True),
    Column("flight", "In flight", lambda endpoint: endpoint.get("in_flight"), numeric=True),
    Column(
        "answered", "Answered", lambda endpoint: (endpoint.get("recent") or {}).get("answered"), numeric=True
    ),
    Column("p50", "p50 ms", lambda endpoint: (endpoint.get("recent") or {}).get("p50_ms"), numeric=True),
    Column("p99", "p99 ms", lambda endpoint: (endpoint.get("recent") or {}).get("p99_ms"), numeric=True),
    Column("made", "Made", lambda endpoint: endpoint.get("created_at")),
)

MOST_FIELDS = 100
"""A playground for more columns than that helps nobody."""


async def endpoints(view: View) -> Response:
    answer = await view.get("/endpoints")
    return view.page(
        "endpoints.html",
        "Endpoints",
        at="endpoints",
        live="endpoint.",
        ways=Ways(
            cli=f"stratal endpoints {view.flag}\nstratal deploy models:/NAME/1 --name my-endpoint {view.flag}",
            python=view.sdk("/endpoints"),
        ),
        listing=arrange(answer["endpoints"], COLUMNS, view.query),
    )


async def endpoint(view: View) -> Response:
    name = view.part("endpoint")
    path = f"/endpoints/{segment(name)}"
    told, history = await asyncio.gather(view.get(path), view.attempt(f"{path}/revisions"))
    return view.page(
        "endpoint.html",
        str(told["name"]),
        at="endpoints",
        live="endpoint.",
        ways=Ways(
            cli=f"stratal endpoint show {quote(name)} {view.flag}",
            python=view.sdk(f"/endpoints/{segment(name)}"),
        ),
        calls=_calls(view.project, told),
        endpoint=told,
        playground=_playground(told.get("interface")),
        history=history,
        pictures=_pictures(told),
        inputs=_described(told, "inputs"),
        outputs=_described(told, "outputs"),
    )


def _pictures(told: Json) -> list[tuple[Json, Picture]]:
    """How quick each revision that answers was of late; those that answered nothing are left out."""
    now = time.time()
    pictures = [(served, drawn(served.get("recent") or {}, now)) for served in told.get("traffic") or ()]
    return [(served, picture) for served, picture in pictures if picture is not None]


def _calls(project: str, told: Json) -> Ways:
    """How to ask it, from a shell and from Python, with what it takes."""
    interface: Mapping[str, Any] = told.get("interface") or {}
    url, body = str(told["invocations_url"]), _example(interface)
    python = (
        "import os, httpx  # with the variables of `stratal env`\n\n"
        "answer = httpx.post(\n"
        f"    {url!r},\n"
        '    headers={"Authorization": f"Bearer {os.environ[\'STRATAL_API_KEY\']}"},\n'
        f"    json={body!r},\n"
        ")\n"
        "answer.json()['prediction_id']  # explains it: stratal why ID"
    )
    if interface.get("generates"):
        path = "chat/completions" if interface.get("chats") else "completions"
        said = [{"role": "user", "content": "Hello"}] if interface.get("chats") else "Hello"
        body = {"model": told["name"], "messages" if interface.get("chats") else "prompt": said}
        url = f"{str(told['url']).partition('/v2/')[0]}/v1/{path}"
        arguments = ", ".join(f"{key}={value!r}" for key, value in body.items())
        python = (
            "import openai  # with the variables of `stratal env`\n\nclient = openai.OpenAI()\n"
            f"client.{path.replace('/', '.')}.create({arguments})"
        )
    if interface.get("draws"):
        body = {"model": told["name"], "prompt": "a red house by the sea"}
        url = f"{str(told['url']).partition('/v2/')[0]}/v1/images/generations"
        python = (
            "import base64, openai  # with the variables of `stratal env`\n\nclient = openai.OpenAI()\n"
            f"drawn = client.images.generate(model={told['name']!r}, prompt='a red house by the sea')\n"
            "open('drawn.png', 'wb').write(base64.b64decode(drawn.data[0].b64_json))"
        )
    return Ways(
        cli=f'eval "$(stratal env --project {quote(project)})"\n'
        f'curl -H "Authorization: Bearer $STRATAL_API_KEY" -H "Content-Type: application/json" \\\n'
        f"  -d {quote(json.dumps(body))} \\\n  {quote(url)}",
        python=python,
    )


def _example(interface: Any) -> Json:
    """A request of one row that has the right shape: zeros, or empty text where text is wanted."""
    said: Mapping[str, Any] = interface if isinstance(interface, Mapping) else {}
    inputs: Sequence[Any] = said.get("inputs") or ()
    columns = said.get("columns")
    if isinstance(columns, list) and columns:
        kinds = {str(i.get("name")): str(i.get("datatype")) for i in inputs if isinstance(i, Mapping)}
        row = [_zero(kinds.get(str(column), "FP64")) for column in columns]
        return {"dataframe_split": {"columns": columns, "data": [row]}}
    if len(inputs) == 1 and isinstance(inputs[0], Mapping) and inputs[0].get("datatype") == "BYTES":
        name = str(inputs[0].get("name"))
        return {"inputs": {name: ["<the file in base64>" if name in ("image", "audio") else "a text"]}}
    shape = inputs[0].get("shape") if inputs and isinstance(inputs[0], Mapping) else None
    width = shape[-1] if isinstance(shape, list) and len(shape) == 2 and isinstance(shape[-1], int) else 1
    kind = str(inputs[0].get("datatype", "FP64")) if shape else "FP64"
    return {"inputs": [[_zero(kind)] * min(max(width, 1), 1000)]}


def _playground(interface: Any) -> Json | None:
    """A form for one row of what the model takes; None where that is no table and no row of a matrix."""
    said: Mapping[str, Any] = interface if isinstance(interface, Mapping) else {}
    inputs = [item for item in said.get("inputs") or () if isinstance(item, Mapping)]
    columns = said.get("columns")
    if isinstance(columns, list) and columns:
        kinds = {str(item.get("name")): str(item.get("datatype")) for item in inputs}
        fields = [(str(column), kinds.get(str(column), "FP64")) for column in columns]
        return _form("table", fields)
    shape = inputs[0].get("shape") if len(inputs) == 1 else None
    if isinstance(shape, list) and len(shape) == 2 and isinstance(shape[1], int) and shape[1] > 0:
        return _form("matrix", [(f"x{at}", str(inputs[0].get("datatype"))) for at in range(shape[1])])
    return None


def _form(takes: str, fields: Sequence[tuple[str, str]]) -> Json | None:
    if len(fields) > MOST_FIELDS:
        return None
    return {
        "takes": takes,
        "fields": [{"name": name, "kind": _kind(kind), "value": _zero(kind)} for name, kind in fields],
    }


def _kind(datatype: str) -> str:
    if datatype in ("BYTES", "BOOL"):
        return "text" if datatype == "BYTES" else "flag"
    return "whole" if datatype.startswith(("INT", "UINT")) else "number"


def _zero(datatype: str) -> float | int | str | bool:
    if datatype == "BYTES":
        return ""
    if datatype == "BOOL":
        return False
    return 0 if datatype.startswith(("INT", "UINT")) else 0.0


def _described(endpoint: Json, which: str) -> list[Json]:
    interface = endpoint.get("interface")
    found = interface.get(which) if isinstance(interface, Mapping) else None
    return [item for item in found or () if isinstance(item, dict)]
