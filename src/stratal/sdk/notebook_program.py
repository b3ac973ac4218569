"""What a job runs that executes a notebook. Sent along with its code, and run by the job's own environment.

``python notebook_program.py NOTEBOOK BUCKET KEY PARAMETERS``: executes NOTEBOOK with the parameters (a JSON object),
and keeps what came of it, also when a cell failed, as KEY.ipynb and KEY.html in BUCKET.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit


def main(notebook: str, bucket: str, key: str, parameters: str) -> int:
    import papermill
    from papermill.exceptions import PapermillExecutionError

    output = "executed.ipynb"
    failure = ""
    try:
        papermill.execute_notebook(
            notebook,
            output,
            parameters=json.loads(parameters),
            kernel_name="python3",
            language="python",  # a notebook need not say it
            cwd=str(Path(notebook).parent),
            log_output=True,
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
        )
    except PapermillExecutionError as error:
        failure = f"Cell {error.exec_count} failed: {error.ename}: {error.evalue}"
    if Path(output).exists():
        keep(output, bucket, key)
    if failure:
        print(failure, file=sys.stderr)
    return 1 if failure else 0


def keep(output: str, bucket: str, key: str) -> None:
    """Put the executed notebook, and a page of it, into the bucket; made if there is none."""
    from nbconvert import HTMLExporter

    page, _ = HTMLExporter(template_name="lab").from_filename(output)
    ask("POST", "/buckets", json.dumps({"name": bucket}).encode(), "application/json", also=(409,))
    put(bucket, f"{key}.ipynb", Path(output).read_bytes(), "application/x-ipynb+json")
    put(bucket, f"{key}.html", page.encode(), "text/html; charset=utf-8")
    print(f"Kept as {bucket}/{key}.ipynb and {bucket}/{key}.html")


def put(bucket: str, key: str, content: bytes, kind: str) -> None:
    ask("PUT", f"/buckets/{quote(bucket, safe='')}/object?{urlencode({'key': key})}", content, kind)


def ask(method: str, path: str, content: bytes, kind: str, also: tuple[int, ...] = ()) -> None:
    address = urlsplit(os.environ["STRATAL_URL"])
    secure = address.scheme == "https"
    connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = connect(address.hostname or "", address.port, timeout=120)
    try:
        headers = {"Authorization": f"Bearer {os.environ['STRATAL_API_KEY']}", "Content-Type": kind}
        where = f"/api/v1/projects/{quote(os.environ['STRATAL_PROJECT'], safe='')}{path}"
        connection.request(method, where, content, headers)
        answer = connection.getresponse()
        said = answer.read(1000).decode(errors="replace")
        if answer.status >= 300 and answer.status not in also:
            raise SystemExit(f"{method} {path}: {answer.status} {said}")
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
