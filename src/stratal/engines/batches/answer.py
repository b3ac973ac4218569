"""Answers a batch: each line of a file is a request to one address of the OpenAI door, asked several at a time.

Run in a job's sandbox with the standard library only. A line that cannot be answered is a line of the error file; it
does not stop the others. Tried again, the whole batch is asked again, and what was told before is told anew.
"""

import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

AT_ONCE = 8
TRIES = 6
Json = dict[str, Any]


def main(batch: str, input_id: str, endpoint: str, bucket: str) -> None:
    lines = [line for line in ask("GET", f"/v1/files/{input_id}/content")[1].split(b"\n") if line.strip()]
    told: Json = {"total": len(lines), "completed": 0, "failed": 0}
    tell(batch, bucket, told)
    good: list[Json] = []
    bad: list[Json] = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number, answer in enumerate(pool.map(lambda line: answered(line, endpoint), lines), start=1):
            response = answer["response"]
            fine = response is not None and response["status_code"] == 200
            (good if fine else bad).append(answer)
            told["completed" if fine else "failed"] += 1
            if number % 100 == 0:
                tell(batch, bucket, told)
                print(f"{number} of {len(lines)}", flush=True)
    for name, rows in (("output", good), ("error", bad)):
        if rows:
            told[f"{name}_file_id"] = upload(f"{batch}_{name}.jsonl", rows)
    tell(batch, bucket, told)
    print(json.dumps(told), flush=True)


def answered(line: bytes, endpoint: str) -> Json:
    found: Json = {"id": f"batch_req_{uuid.uuid4().hex}", "custom_id": None, "response": None, "error": None}
    try:
        asked = json.loads(line)
        found["custom_id"] = asked["custom_id"]
        if asked.get("method", "POST") != "POST" or asked["url"] != endpoint:
            raise ValueError(f"every line must be a POST to {endpoint}")
        body = asked["body"]
        if not isinstance(body, dict) or body.get("stream"):
            raise ValueError("body must be a JSON object that does not ask for a stream")
    except (ValueError, KeyError, TypeError) as error:
        found["error"] = {"code": "invalid_request", "message": f"{type(error).__name__}: {error}"}
        return found
    status, data = ask("POST", endpoint, json.dumps(body).encode(), raises=False)
    try:
        said = json.loads(data)
    except ValueError:
        said = {"error": {"message": data.decode(errors="replace")[:500]}}
    found["response"] = {"status_code": status, "request_id": found["id"], "body": said}
    return found


def ask(
    method: str, path: str, body: bytes | None = None, kind: str = "application/json", *, raises: bool = True
) -> tuple[int, bytes]:
    """The status and the bytes; what is busy or away for a moment is asked again."""
    for attempt in range(TRIES):
        request = urllib.request.Request(os.environ["STRATAL_URL"] + path, body, method=method)  # noqa: S310
        request.add_header("Authorization", "Bearer " + os.environ["STRATAL_API_KEY"])
        request.add_header("Content-Type", kind)
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:  # noqa: S310 - the platform's own address
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            data = error.read()
            if error.code in (429, 503) and attempt < TRIES - 1:
                time.sleep(2**attempt)
            elif raises:
                raise RuntimeError(f"{method} {path}: {error.code} {data[:500]!r}") from None
            else:
                return error.code, data
        except (urllib.error.URLError, http.client.HTTPException, OSError):
            if attempt == TRIES - 1:
                raise
            time.sleep(2**attempt)
    raise AssertionError


def tell(batch: str, bucket: str, told: Json) -> None:
    project = urllib.parse.quote(os.environ["STRATAL_PROJECT"], safe="")
    key = urllib.parse.urlencode({"key": f"batches/{batch}.state.json"})
    ask("PUT", f"/api/v1/projects/{project}/buckets/{bucket}/object?{key}", json.dumps(told).encode())


def upload(name: str, rows: list[Json]) -> str:
    mark = uuid.uuid4().hex
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    head = (
        f'--{mark}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch_output\r\n'
        f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    body = head.encode() + lines + f"\r\n--{mark}--\r\n".encode()
    _, answer = ask("POST", "/v1/files", body, f"multipart/form-data; boundary={mark}")
    return str(json.loads(answer)["id"])


if __name__ == "__main__":
    main(*sys.argv[1:5])
