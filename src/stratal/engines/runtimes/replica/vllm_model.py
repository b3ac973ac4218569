"""Language models by vLLM: its own server is a child of the replica, on a unix socket that nobody else reaches.

A model whose ``requirements.txt`` names vllm is served so. What of vLLM's is used is documented by it: ``vllm serve``
with ``--uds``, ``/health``, ``/v1/models`` and the two completions as streams with their usage. Each text is a connection
of its own, read by a thread; closing it makes vLLM stop writing. When the child ends, so does the replica, and the
platform starts another.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import queue
import secrets
import socket
import subprocess
import sys
import threading
import time
from importlib import metadata

from . import calling
from .arrays import Invalid
from .model import hash_below
from .writer import Writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


SOCKET = "vllm.sock"
NAME = "model"
_DEFAULT_TOKENS = 256
_LOOK_SECONDS = 0.05
_STOP_SECONDS = 10.0
_ASK_SECONDS = 600.0


def is_wanted() -> bool:
    """Whether the model's environment has vLLM, which only its own requirements can have put there."""
    return importlib.util.find_spec("vllm") is not None


def load(plan: dict[str, Any]) -> VllmModel:
    """Start vLLM on the plan's model and wait until it answers. Raises `ValueError` where it cannot."""
    gpus = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
    if not gpus:
        raise ValueError("vLLM needs a GPU, and this replica was given none: deploy it with --gpus 1")
    program = os.path.join(os.path.dirname(sys.executable), "vllm")  # noqa: PTH118, PTH120
    if not os.path.exists(program):  # noqa: PTH110
        raise ValueError(
            "the environment's package vllm brings no program `vllm`: name a release of it that does"
        )
    files: dict[str, str] = {}
    hash_below(plan["model"], "", files)
    if not any(path.endswith(".safetensors") for path in files):
        raise ValueError("the model has no safetensors; pickled weights are not opened")
    child = _Child(program, plan["model"], len(gpus))
    try:
        told = child.wait_ready()
    except BaseException:
        child.stop()
        raise
    libraries = {"python": sys.version.split()[0], "vllm": metadata.version("vllm")}
    return VllmModel(
        child, int(told.get("max_model_len") or 0), _has_template(plan["model"]), files, libraries
    )


def command(program: str, model: str, gpus: int) -> list[str]:
    """vLLM's command line: the model's safetensors alone, no code of its own, all GPUs of this replica."""
    return [
        *(program, "serve", model, "--uds", SOCKET, "--served-model-name", NAME),
        *("--load-format", "safetensors", "--tensor-parallel-size", str(gpus)),
    ]


def _has_template(folder: str) -> bool:
    if os.path.exists(os.path.join(folder, "chat_template.jinja")):  # noqa: PTH110, PTH118
        return True
    try:
        with open(os.path.join(folder, "tokenizer_config.json"), "rb") as file:  # noqa: PTH118, PTH123
            return bool(json.load(file).get("chat_template"))
    except (OSError, ValueError, AttributeError):
        return False


class _Child:
    """The server's process. Its end is the replica's, unless it was stopped."""

    def __init__(self, program: str, model: str, gpus: int) -> None:
        self._key = secrets.token_hex(32)
        self._stopped = self._ready = False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(SOCKET)  # noqa: PTH108
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "VLLM_API_KEY": self._key,
            "VLLM_CACHE_ROOT": os.path.abspath("vllm-cache"),  # noqa: PTH100
            "VLLM_NO_USAGE_STATS": "1",
        }
        self._process = subprocess.Popen(
            command(program, model, gpus), env=environment, stdin=subprocess.DEVNULL
        )
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        code = self._process.wait()
        if self._ready and not self._stopped:
            print(f"vLLM ended with exit code {code}; so does this replica", flush=True)
            os._exit(1)

    def wait_ready(self) -> dict[str, Any]:
        """What it says of its model, once it does. Raises `ValueError` when it ends before."""
        while True:
            code = self._process.poll()
            if code is not None:
                raise ValueError(f"vLLM ended with exit code {code} before it was ready; the log says why")
            try:
                if self.get("/health")[0] == 200:
                    break
            except OSError:
                pass
            time.sleep(_LOOK_SECONDS)
        status, body = self.get("/v1/models")
        if status != 200:
            raise ValueError(f"vLLM does not tell its model (status {status})")
        self._ready = True
        told: dict[str, Any] = json.loads(body)["data"][0]
        return told

    def get(self, path: str) -> tuple[int, bytes]:
        connection = self.connect(10.0)
        try:
            connection.request("GET", path, headers=self.headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}

    def connect(self, seconds: float) -> _Connection:
        return _Connection("localhost", timeout=seconds)

    def stop(self) -> None:
        self._stopped = True
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class _Connection(http.client.HTTPConnection):
    """HTTP over the unix socket in this folder."""

    raw: socket.socket | None = None
    """Stays, also where an answer took `sock` over."""

    def connect(self) -> None:
        self.sock = self.raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(SOCKET)


class VllmModel(Writer):
    def __init__(
        self, child: _Child, context: int, chats: bool, files: dict[str, str], libraries: dict[str, str]
    ) -> None:
        self._child = child
        self._chats = chats
        self._writing = 0
        self._news = threading.Event()
        self.files = files
        self.libraries = libraries
        self.interface: dict[str, Any] = {
            "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
            "columns": None,
            "outputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
            "classes": None,
            "answers": "text",
            "generates": True,
            "chats": chats,
            "context": context,
            "holds_schemas": True,
        }

    def close(self) -> None:
        self._child.stop()

    def _written(self, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
        chats = asked.get("messages") is not None
        if chats and not self._chats:
            raise Invalid("The model has no chat template: it completes text, it does not chat.")
        path = "/v1/chat/completions" if chats else "/v1/completions"
        text = _Text(self._child, path, wire_of(asked), self._news)
        end: dict[str, Any] = {"finish": "length", "prompt_tokens": 0, "completion_tokens": 0}
        self._writing += 1
        try:
            while not text.has_ended():
                said = "".join(read(piece, end) for piece in text.take(_LOOK_SECONDS / self._writing))
                yield {"text": said}
        finally:
            self._writing -= 1
            text.close()
        yield end


class _Text:
    """One text that vLLM writes: its pieces come through a queue, read by a thread from a connection of its own."""

    def __init__(self, child: _Child, path: str, asked: dict[str, Any], news: threading.Event) -> None:
        self._child, self._path, self._asked, self._news = child, path, asked, news
        self._pieces: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._connection = child.connect(_ASK_SECONDS)
        self._closed = self._ended = False
        threading.Thread(target=self._read, daemon=True).start()

    def has_ended(self) -> bool:
        return self._ended

    def take(self, seconds: float) -> list[dict[str, Any]]:
        """What has come meanwhile; waits so long when nothing has, or until some text goes on."""
        if self._pieces.empty():
            self._news.wait(seconds)
            self._news.clear()
        found = []
        while not self._pieces.empty():
            piece = self._pieces.get()
            if piece is None:
                self._ended = True
                break
            found.append(piece)
        return found

    def close(self) -> None:
        """Nobody reads it any more: vLLM sees the connection end, and stops."""
        self._closed = True
        if self._connection.raw is not None:
            with contextlib.suppress(OSError):  # it has ended already
                self._connection.raw.shutdown(socket.SHUT_RDWR)

    def _read(self) -> None:
        try:
            self._connection.request("POST", self._path, json.dumps(self._asked), self._child.headers)
            answer = self._connection.getresponse()
            if answer.status != 200:
                self._put({"error": {"code": answer.status, "message": _message(answer.read())}})
            for line in answer if answer.status == 200 else ():
                data = line.strip().removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
                if data and data != b"[DONE]":
                    self._put(json.loads(data))
        except Exception as error:
            if not self._closed:
                self._put({"error": {"code": 500, "message": f"{type(error).__name__}: {error}"}})
        finally:
            self._connection.close()
            self._put(None)

    def _put(self, piece: dict[str, Any] | None) -> None:
        self._pieces.put(piece)
        self._news.set()


def wire_of(asked: dict[str, Any]) -> dict[str, Any]:
    """The request as OpenAI's protocol has it."""
    forced = calling.forced(asked)
    schema = calling.call_schema(forced) if forced else asked.get("schema")
    said: dict[str, Any] = {
        "model": NAME,
        "max_tokens": int(asked.get("max_tokens") or _DEFAULT_TOKENS),
        "stream": True,
        "stream_options": {"include_usage": True},
        **{key: asked[key] for key in ("temperature", "top_p", "seed") if asked.get(key) is not None},
    }
    if stops := [stop for stop in asked.get("stop") or [] if stop]:
        said["stop"] = stops
    if schema is not None:
        form = {"name": "answer", "schema": schema, "strict": True}
        said["response_format"] = {"type": "json_schema", "json_schema": form}
    if asked.get("messages") is None:
        return {**said, "prompt": str(asked["prompt"])}
    # The calls are read here, so that they are the same whichever runtime writes.
    return {**said, "messages": calling.described(asked["messages"], calling.offered(asked))}


def read(piece: dict[str, Any], end: dict[str, Any]) -> str:
    """The piece's text; what it says of the end is noted in `end`. Raises `Invalid` for what vLLM refuses."""
    if "error" in piece:
        error = piece["error"]
        message = str(error.get("message", ""))
        if 400 <= int(error.get("code") or 500) < 500:
            raise Invalid(f"vLLM refused it: {message[:500]}")
        raise RuntimeError(message)
    if usage := piece.get("usage"):
        end["prompt_tokens"], end["completion_tokens"] = usage["prompt_tokens"], usage["completion_tokens"]
    text = ""
    for choice in piece.get("choices") or ():
        text += str((choice.get("delta") or {}).get("content") or choice.get("text") or "")
        if choice.get("finish_reason"):
            end["finish"] = choice["finish_reason"]
    return text


def _message(body: bytes) -> str:
    """What an answer that is a refusal says."""
    try:
        told = json.loads(body)
        return str((told.get("error") or told).get("message") or told)
    except (ValueError, AttributeError):
        return body.decode(errors="replace")[:500]
