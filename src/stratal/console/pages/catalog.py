"""Ready models: the gallery by task, and one with a form to try it on a text, a picture or a sound."""

import json
from shlex import quote
from typing import Any

from starlette.responses import Response

from stratal.console.native import Json, Refused, segment
from stratal.console.render import Ways
from stratal.console.view import View

_GROUPS = (
    ("Pictures", ("ocr", "faces", "classify-image", "detect", "draw")),
    (
        "Texts",
        (
            *("embed", "sentiment", "language", "sort", "entities"),
            *("answer", "translate", "summarise", "chat"),
        ),
    ),
    ("Sounds", ("transcribe", "voice", "say")),
)
EXAMPLES = {
    "embed": "The doctor wrote a prescription.\nA physician prescribed a medicine.\nThe carpenter fixed the roof.",
    "sentiment": "What a wonderful surprise, I am delighted!\nThe delivery was late and the box was broken.",
    "language": "Morgen fahren wir mit dem Zug in die Berge.\nOù est la gare, s'il vous plaît ?",
    "say": "Good morning. The train leaves at nine.",
    "entities": "Ada Lovelace wrote to Charles Babbage from London.",
    "answer": "The bridge was opened in 1932 and carries trains and cars.",
    "translate": "The house is small.",
    "chat": "Name three fruits.",
    "draw": "A red house by the sea, watercolour.",
    "sort": "The orchestra plays its last concert of the year.\nThe bakery sells rye bread on Thursdays.",
}
"""What stands in the form at first; every line is a text of its own, but for speech."""
BESIDE = {
    "voice": "en-us",
    "speed": "1",
    "labels": "food, music, politics",
    "question": "When was the bridge opened?",
    "source": "en",
    "target": "de",
}


MEASURED = frozenset({"embed", "sort", "ocr", "sentiment", "language", "transcribe", "voice", "say"})
"""Tasks with a set to measure on."""


async def gallery(view: View) -> Response:
    told = await view.native.get("/catalog")
    tasks = {str(task["name"]): task for task in told["tasks"] if isinstance(task, dict)}
    answering = await _answering(view)
    known = {name for _, names in _GROUPS for name in names}
    groups = [(title, [tasks[name] for name in names if name in tasks]) for title, names in _GROUPS]
    more = [task for name, task in tasks.items() if name not in known]
    return view.page(
        "gallery.html",
        "Ready models",
        at="gallery",
        live="endpoint.",
        ways=Ways(
            cli=f"stratal models catalog\nstratal models try ocr {view.flag}",
            python="from stratal.sdk import Client\n\nClient().get('/catalog')",
        ),
        groups=[(title, found) for title, found in [*groups, ("More", more)] if found],
        answering=answering,
    )


async def entry(view: View) -> Response:
    told = await view.native.get(f"/catalog/{segment(view.part('entry'))}")
    name = str(told["name"])
    endpoint = await view.attempt(f"/endpoints/{segment(name)}")
    takes = str(told["inputs"][0]["name"]) if told.get("inputs") else "text"
    return view.page(
        "gallery_entry.html",
        str(told["title"]),
        at="gallery",
        live="endpoint.",
        ways=Ways(
            cli=f"stratal models try {quote(name)} {view.flag}"
            + (f"\nstratal models bench {quote(name)} {view.flag}" if str(told["task"]) in MEASURED else ""),
            python=_python(str(told["task"]), name, takes),
        ),
        entry=told,
        takes=takes,
        example=EXAMPLES.get(str(told["task"]), ""),
        beside=BESIDE,
        endpoint=None if isinstance(endpoint, Refused) else endpoint,
    )


async def _answering(view: View) -> dict[str, Json]:
    told = await view.attempt("/endpoints")
    if isinstance(told, Refused):
        return {}
    return {str(one["name"]): one for one in told["endpoints"]}


def _python(task: str, name: str, takes: str) -> str:
    """How a program asks it, by the client that people have for the task."""
    head = "import openai  # with the variables of `stratal env`\n\nclient = openai.OpenAI()\n"
    if task == "embed":
        return f"{head}client.embeddings.create(model={name!r}, input='hello').data[0].embedding"
    if task == "chat":
        return (
            f"{head}client.chat.completions.create(model={name!r},\n"
            "    messages=[{'role': 'user', 'content': 'Name three fruits.'}]).choices[0].message.content"
        )
    if task == "transcribe":
        return f"{head}client.audio.transcriptions.create(model={name!r}, file=open('speech.wav', 'rb')).text"
    if task == "draw":
        return (
            "import base64\n"
            f"{head}drawn = client.images.generate(model={name!r}, prompt='A red house by the sea')\n"
            "open('drawn.png', 'wb').write(base64.b64decode(drawn.data[0].b64_json))"
        )
    if task == "say":
        return f"{head}client.audio.speech.create(model={name!r}, voice='en-us', input='Hello').write_to_file('said.wav')"
    given: Any = ["a text"] if takes == "text" else ["<the file in base64>"]
    asked = json.dumps({"inputs": {takes: given}})
    return (
        "from stratal.sdk import Client\n\nclient = Client()\n"
        f"client.post(client.path('/endpoints/{segment(name)}/invocations'), {asked})"
    )
