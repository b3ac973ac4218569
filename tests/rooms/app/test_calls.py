"""What `stratal endpoint show` says of how an endpoint is asked."""

import ast
import json
import shlex
from typing import Any

import pytest

from stratal.cli.calls import how_to_call

pytestmark = pytest.mark.fast

TEXT = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}], "columns": None, "outputs": []}


def body(interface: dict[str, Any]) -> Any:
    """What the first way sends; the others must be Python."""
    seen = {
        "name": "e",
        "url": "https://here:1/v2/models/e/infer",
        "invocations_url": "https://here:1/api",
        "interface": interface,
    }
    shell, *python = how_to_call(seen)
    for way in python:
        ast.parse(way)
    words = shlex.split(shell.replace("\\\n", " "))
    assert words[0] in {"curl", "echo"}
    return json.loads(words[words.index("-d") + 1]) if words[0] == "curl" else words[1]


def test_a_request_has_the_form_that_the_model_takes() -> None:
    assert body(TEXT) == {"inputs": {"text": ["a text"]}}
    picture = {**TEXT, "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}]}
    assert body(picture) == '{"inputs": {"image": ["$(base64 -w0 picture.png)"]}}'
    matrix = {**TEXT, "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]}
    assert body(matrix) == {"instances": [[0.0, 0.0, 0.0]]}
    table = [
        {"name": "age", "datatype": "INT64", "shape": [-1]},
        {"name": "city", "datatype": "BYTES", "shape": [-1]},
    ]
    asked = {"columns": ["age", "city"], "data": [[0, "a text"]]}
    assert body({**TEXT, "inputs": table, "columns": ["age", "city"]}) == {"dataframe_split": asked}
    assert body({**TEXT, "inputs": table}) == {"inputs": {"age": [0], "city": ["a text"]}}


def test_what_writes_is_asked_through_openais_door() -> None:
    assert body({**TEXT, "generates": True, "chats": True})["messages"][0]["role"] == "user"
    assert body({**TEXT, "generates": True})["prompt"]
