"""Chat: with a language model of the project, alone or over an index of documents."""

from starlette.responses import Response

from stratal.console.native import Refused
from stratal.console.render import Ways
from stratal.console.view import View


async def chat(view: View) -> Response:
    told = await view.get("/endpoints")
    writers = [one for one in told["endpoints"] if one.get("chats")]
    found = await view.attempt("/indexes")
    indexes = [] if isinstance(found, Refused) else [one for one in found["indexes"] if one.get("built_at")]
    names = [str(one["name"]) for one in writers]
    chosen = view.query.get("model", "")
    model = chosen if chosen in names else (names[0] if names else "NAME")
    return view.page(
        "chat.html",
        "Chat",
        at="chat",
        live="endpoint. index.",
        ways=Ways(
            cli=f"stratal endpoint chat {model} {view.flag}",
            python="import openai  # with the variables of `stratal env`\n\nclient = openai.OpenAI()\n"
            f"client.chat.completions.create(model={model!r},\n"
            "    messages=[{'role': 'user', 'content': 'hello'}])",
        ),
        writers=writers,
        model=chosen,
        indexes=indexes,
        index=view.query.get("index", ""),
    )
