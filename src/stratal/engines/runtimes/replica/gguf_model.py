"""Language models in the GGUF format, by llama.cpp in this process (the library xllamacpp).

llama.cpp writes several texts at once, each asked for by a thread of its own; their pieces come through queues, so that
the replica's loop goes on looking at its connections. Its HTTP server cannot be left out; it listens on the loopback of
the sandbox's own network, behind a key that nobody is told.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import sys
import threading
from importlib import metadata

from . import calling
from .arrays import Invalid
from .guiding import check, compact
from .model import hash_below
from .writer import Writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


_SIDE_BY_SIDE = 4
_MOST_CONTEXT = 16_384
"""Tokens of context for all texts that are written at once: what is kept of them costs memory."""
_DEFAULT_TOKENS = 256
_LOOK_SECONDS = 0.05


def load(plan: dict[str, Any]) -> GgufModel:
    """Load the plan's file. Raises what the library raises, and `ImportError` when it is not there."""
    import xllamacpp
    from gguf import GGUFReader

    files: dict[str, str] = {}
    hash_below(plan["model"], "", files)
    path = os.path.join(plan["model"], plan["file"])  # noqa: PTH118
    fields = GGUFReader(path).fields
    kind = str(fields["general.architecture"].contents())
    trained = fields.get(f"{kind}.context_length")
    context = min(int(trained.contents()) if trained is not None else 4096, _MOST_CONTEXT)
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel, params.kv_unified = context, _SIDE_BY_SIDE, True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_threads_http = 1
    params.api_keys = [secrets.token_hex(32)]
    params.offline = True
    server = xllamacpp.Server(params)
    libraries = {
        "python": sys.version.split()[0],
        "xllamacpp": xllamacpp.__version__,
        "gguf": metadata.version("gguf"),
    }
    template = fields.get("tokenizer.chat_template")
    return GgufModel(
        server, context, None if template is None else str(template.contents()), files, libraries
    )


class GgufModel(Writer):
    def __init__(
        self,
        server: Any,
        context: int,
        template: str | None,
        files: dict[str, str],
        libraries: dict[str, str],
    ) -> None:
        self._server = server
        self._template = template
        self.files = files
        self.libraries = libraries
        self.interface: dict[str, Any] = {
            "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
            "columns": None,
            "outputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
            "classes": None,
            "answers": "text",
            "generates": True,
            "chats": template is not None,
            "context": context,
            "holds_schemas": True,
        }

    def _written(self, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
        chats = asked.get("messages") is not None
        if chats and self._template is None:
            raise Invalid("The model has no chat template: it completes text, it does not chat.")
        said = self._asked(asked)
        ask = self._server.handle_chat_completions if chats else self._server.handle_completions
        pieces: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        given_up = threading.Event()

        def take(piece: dict[str, Any]) -> bool:
            pieces.put(piece)
            return given_up.is_set()

        def work() -> None:
            try:
                ask(said, take)
            except ValueError as error:
                pieces.put({"error": {"code": 400, "message": str(error)}})
            except Exception as error:
                pieces.put({"error": {"code": 500, "message": f"{type(error).__name__}: {error}"}})
            pieces.put(None)

        threading.Thread(target=work, daemon=True).start()
        end = {"finish": "length", "prompt_tokens": 0, "completion_tokens": 0}
        try:
            while True:
                try:
                    piece = pieces.get(timeout=_LOOK_SECONDS)
                except queue.Empty:
                    yield {"text": ""}
                    continue
                if piece is None:
                    break
                text = _read(piece, end)
                if text:
                    yield {"text": text}
        finally:
            given_up.set()
        yield end

    def _asked(self, asked: dict[str, Any]) -> dict[str, Any]:
        forced = calling.forced(asked)
        schema = calling.call_schema(forced) if forced else asked.get("schema")
        said: dict[str, Any] = {
            "max_tokens": int(asked.get("max_tokens") or _DEFAULT_TOKENS),
            "stop": [stop for stop in asked.get("stop") or [] if stop],
            "stream": True,
            "stream_options": {"include_usage": True},
            **{key: asked[key] for key in ("temperature", "top_p", "seed") if asked.get(key) is not None},
        }
        if schema is not None:
            check(schema)
            # llama.cpp's own way from schema to grammar leaves keywords out that stand beside others; this one does not.
            said["grammar"] = f"%llguidance {{}}\nstart: %json {json.dumps(compact(schema))}"
        if asked.get("messages") is None:
            return {**said, "prompt": str(asked["prompt"])}
        # The calls are read here, so that they are the same whichever runtime writes.
        return {**said, "messages": calling.described(asked["messages"], calling.offered(asked))}


def _read(piece: dict[str, Any], end: dict[str, Any]) -> str:
    """The piece's text; what it says of the end is noted in `end`. Raises `Invalid` for what llama.cpp refuses."""
    if "error" in piece:
        error = piece["error"]
        if int(error.get("code") or 500) < 500:
            raise Invalid(f"llama.cpp refused it: {error.get('message', '')}")
        raise RuntimeError(str(error.get("message", "")))
    if usage := piece.get("usage"):
        end["prompt_tokens"], end["completion_tokens"] = usage["prompt_tokens"], usage["completion_tokens"]
    text = ""
    for choice in piece.get("choices") or ():
        text += str((choice.get("delta") or {}).get("content") or choice.get("text") or "")
        if choice.get("finish_reason"):
            end["finish"] = choice["finish_reason"]
    return text
