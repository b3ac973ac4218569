"""How an endpoint is asked, in lines to copy: a request of the shape that its model takes."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

_FILES = {"image": "picture.png", "audio": "speech.wav"}
_OPENAI = "import openai  # with the variables of `stratal env`\n"
_KEY = '-H "Authorization: Bearer $STRATAL_API_KEY"'
_JSON = "-H 'Content-Type: application/json'"


def how_to_call(seen: Mapping[str, Any]) -> list[str]:
    """Ways to ask the endpoint that `seen` describes, as the native API does: shell lines, then Python."""
    interface, name = seen["interface"], seen["name"]
    if interface.get("generates"):
        return _writing(name, _base(seen), chats=bool(interface.get("chats")))
    if interface.get("draws"):
        return _drawing(name, _base(seen))
    given, word = _body(interface)
    ways = [f"{given}curl -s {seen['invocations_url']} {_KEY} \\\n  {_JSON} -d {word}"]
    if interface.get("answers") == "embedding":
        ways.append(f"{_OPENAI}print(openai.OpenAI().embeddings.create(model={name!r}, input='a text'))")
    if len(interface["inputs"]) == 1:
        ways.append(_triton(seen, interface["inputs"][0]))
    return ways


def _base(seen: Mapping[str, Any]) -> str:
    scheme, _, rest = seen["url"].partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def _writing(name: str, base: str, *, chats: bool) -> list[str]:
    asked: dict[str, Any] = {"model": name, "max_tokens": 100}
    asked |= {"messages": [{"role": "user", "content": "Hello"}]} if chats else {"prompt": "Hello"}
    path = "chat/completions" if chats else "completions"
    said = ", ".join(f"{key}={value!r}" for key, value in asked.items())
    client = f"openai.OpenAI().{path.replace('/', '.')}"
    return [
        f"curl -s {base}/v1/{path} {_KEY} \\\n  {_JSON} -d {shlex.quote(json.dumps(asked))}",
        f"{_OPENAI}print({client}.create({said}))",
    ]


def _drawing(name: str, base: str) -> list[str]:
    asked = shlex.quote(json.dumps({"model": name, "prompt": "a red house by the sea"}))
    return [
        f"curl -s {base}/v1/images/generations {_KEY} \\\n  {_JSON} -d {asked}",
        f"import base64\n{_OPENAI}drawn = openai.OpenAI().images.generate(model={name!r}, prompt='a red house by the sea')\n"
        "open('drawn.png', 'wb').write(base64.b64decode(drawn.data[0].b64_json))",
    ]


def _body(interface: Mapping[str, Any]) -> tuple[str, str]:
    """What goes before curl, and what its ``-d`` is given. Files come through a pipe: a word of a line is soon too long."""
    columns, inputs = interface["columns"], interface["inputs"]
    if len(inputs) == 1 and inputs[0]["name"] in _FILES:
        name = inputs[0]["name"]
        return f'echo "{{\\"inputs\\": {{\\"{name}\\": [\\"$(base64 -w0 {_FILES[name]})\\"]}}}}" | ', "@-"
    asked: dict[str, Any] = {"inputs": {port["name"]: [_row(port)] for port in inputs}}
    if columns:
        kinds = {port["name"]: port["datatype"] for port in inputs}
        row = [_value(kinds.get(column, "FP64")) for column in columns]
        asked = {"dataframe_split": {"columns": columns, "data": [row]}}
    elif len(inputs) == 1 and inputs[0]["datatype"] != "BYTES":
        asked = {"instances": [[0.0] * _width(inputs[0])]}
    return "", shlex.quote(json.dumps(asked))


def _row(port: Mapping[str, Any]) -> Any:
    value = _value(port["datatype"])
    return [value] * _width(port) if len(port["shape"]) > 1 else value


def _width(port: Mapping[str, Any]) -> int:
    return max(1, port["shape"][-1]) if len(port["shape"]) > 1 else 1


def _value(datatype: str) -> Any:
    if datatype == "BYTES":
        return "a text"
    return False if datatype == "BOOL" else 0 if "INT" in datatype else 0.0


def _triton(seen: Mapping[str, Any], port: Mapping[str, Any]) -> str:
    host = _base(seen).partition("://")[2]
    secure = ", ssl=True" if seen["url"].startswith("https") else ""
    if port["datatype"] == "BYTES":
        file = _FILES.get(port["name"])
        value = f"open({file!r}, 'rb').read()" if file else "'a text'"
        shape, datatype, array = [1], "BYTES", f"numpy.array([{value}], object)"
    else:
        width = len(seen["interface"]["columns"] or ()) or _width(port)
        shape, datatype, array = [1, width], "FP64", f"numpy.zeros((1, {width}))"
    outputs = seen["interface"]["outputs"] or [{"name": "predict"}]
    return (
        "import os, numpy, tritonclient.http as triton\n"
        f"client = triton.InferenceServerClient({host!r}{secure})\n"
        f"x = triton.InferInput({port['name']!r}, {shape}, {datatype!r})\n"
        f"x.set_data_from_numpy({array})\n"
        "key = {'Authorization': 'Bearer ' + os.environ['STRATAL_API_KEY']}\n"
        f"print(client.infer({seen['name']!r}, [x], headers=key).as_numpy({outputs[0]['name']!r}))"
    )
