"""A stand-in for vLLM's server, for tests without a GPU: it speaks the HTTP that vLLM documents, and writes counted words.

Nothing is learned here of vLLM itself. It takes the options that the replica gives and no others; in its folder it notes
what it was asked and which connections ended before their text did.
"""

import argparse
import json
import os
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "replica"

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""

    def _send(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.path == "/health":
            return self._send(200, {})
        if self.headers["Authorization"] != f"Bearer {os.environ['VLLM_API_KEY']}":
            return self._send(401, {"error": "Unauthorized"})
        return self._send(200, {"object": "list", "data": [{"id": "model", "max_model_len": 2048}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        note("asked", asked)
        prompt = asked.get("prompt") or asked["messages"][-1]["content"]
        if prompt == "die":
            os._exit(7)
        if prompt == "long":
            return self._send(400, {"error": {"message": "maximum context length is 2048", "code": 400}})
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for number in range(asked["max_tokens"]):
                word = f"{prompt}{number} "
                text = {"delta": {"content": word}} if "messages" in asked else {"text": word}
                self._event({"choices": [{"index": 0, "finish_reason": None, **text}]})
                if prompt == "slow":
                    time.sleep(0.02)
            self._event({"choices": [{"index": 0, "finish_reason": "length", "delta": {}, "text": ""}]})
            usage = {"prompt_tokens": 3, "completion_tokens": asked["max_tokens"]}
            self._event({"choices": [], "usage": usage})
            self._chunk(b"data: [DONE]\n\n")
            self._chunk(b"")
        except OSError:
            note("aborted", prompt)
            self.close_connection = True

    def _event(self, value: object) -> None:
        self._chunk(b"data: " + json.dumps(value).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()


def note(what: str, value: object) -> None:
    with LOCK, open("stand-in.jsonl", "a") as file:
        file.write(json.dumps([what, value]) + "\n")


LOCK = threading.Lock()

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("serve")
    parser.add_argument("model")
    for option in ("--uds", "--served-model-name", "--load-format", "--tensor-parallel-size"):
        parser.add_argument(option, required=True)
    given = parser.parse_args()
    note("started", {**vars(given), "pid": os.getpid(), "offline": os.environ["HF_HUB_OFFLINE"]})
    if os.path.exists(os.path.join(given.model, "unknown")):  # noqa: PTH110, PTH118
        sys.exit(3)
    Server(given.uds, Answer).serve_forever()
