"""Objects over HTTP, side by side: Stratal and, where it is installed, nginx (static files and WebDAV PUT).

Usage: python bench/objects.py [--seconds 3] [--nginx PATH] [--json]

Both get the same requests from the same client on this machine: one 64 MiB object over one connection,
and 4 KiB objects over 1 and 16 connections. Stratal is asked through presigned addresses, so that
signing costs the client nothing; it checks each signature, hashes each body and makes each PUT durable
(fsync), none of which nginx does. Figures are medians of three runs; the ratio is Stratal's to the
peer's. It fails nothing by time.
"""

import argparse
import getpass
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

BIG = 64 * 1024 * 1024
SMALL = 4 * 1024
RUNS = 3
Send = Callable[[socket.socket, int], None]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    for _ in range(500):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")


class S3Server:
    """A server asked through presigned addresses of one bucket."""

    def __init__(self, url: str, key_id: str, secret: str) -> None:
        self.port = urlsplit(url).port or 80
        self._s3 = boto3.client(
            "s3",
            endpoint_url=url,
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
            region_name="us-east-1",
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )
        self._s3.create_bucket(Bucket="bench")
        for name, size in (("big", BIG), ("small", SMALL)):
            self._s3.put_object(Bucket="bench", Key=name, Body=os.urandom(size))

    def target(self, method: str, key: str) -> str:
        url = self._s3.generate_presigned_url(
            f"{method.lower()}_object", Params={"Bucket": "bench", "Key": key}, ExpiresIn=3600
        )
        parts = urlsplit(url)
        return f"{parts.path}?{parts.query}"


class NginxServer:
    """Static files, and WebDAV's PUT."""

    def __init__(self, port: int) -> None:
        self.port = port

    def target(self, _method: str, key: str) -> str:
        return f"/{key}"


@contextmanager
def stratal() -> Iterator[S3Server]:
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "stratal.cli.main"]
        environ = {**os.environ, "STRATAL_HOME": f"{scratch}/home"}
        subprocess.run(
            [*command, "up", "--detach", "--port", str(free_port())], env=environ, check=True, stdout=2
        )
        try:
            done = subprocess.run(
                [*command, "env", "--format", "json"], env=environ, check=True, stdout=subprocess.PIPE
            )
            env = json.loads(done.stdout)
            yield S3Server(env["AWS_ENDPOINT_URL"], env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"])
        finally:
            subprocess.run([*command, "down"], env=environ, check=True, stdout=2)


@contextmanager
def process(*command: str) -> Iterator[None]:
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        running.terminate()
        running.wait()


@contextmanager
def nginx(path: str) -> Iterator[NginxServer]:
    port = free_port()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        root.chmod(0o755)
        for name, size in (("big", BIG), ("small", SMALL)):
            (root / name).write_bytes(os.urandom(size))
        (root / "conf").write_text(
            f"daemon off; user {getpass.getuser()}; pid {root}/pid; error_log {root}/log; events {{}} worker_processes 1;"
            f"http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;"
            f"  client_body_temp_path {root}/t; proxy_temp_path {root}/t; fastcgi_temp_path {root}/t;"
            f"  uwsgi_temp_path {root}/t; scgi_temp_path {root}/t;"
            f"  server {{ listen 127.0.0.1:{port}; root {root}; dav_methods PUT;"
            f"  client_max_body_size 1g; }} }}"
        )
        with process(path, "-c", str(root / "conf"), "-e", str(root / "log")):
            wait_for(port)
            yield NginxServer(port)


# -- the client: as little Python as possible between two reads


def receive(connection: socket.socket, buffer: memoryview) -> int:
    got = connection.recv_into(buffer)
    if not got:
        raise RuntimeError("the server closed the connection")
    return got


def exchange(connection: socket.socket, request: bytes, body: bytes, buffer: bytearray) -> None:
    connection.sendall(request + body if len(body) < 65536 else request)
    if len(body) >= 65536:
        connection.sendall(body)
    got = receive(connection, memoryview(buffer))
    end = buffer.find(b"\r\n\r\n", 0, got)
    while end < 0:
        got += receive(connection, memoryview(buffer)[got:])
        end = buffer.find(b"\r\n\r\n", 0, got)
    head = bytes(buffer[:end]).lower()
    if not head.startswith(b"http/1.1 20"):
        raise RuntimeError(f"refused: {bytes(buffer[:got])[:600]!r}")
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0]) if b"content-length:" in head else 0
    left = length - (got - end - 4)
    while left > 0:
        left -= receive(connection, memoryview(buffer)[:left])


def rate(server: S3Server | NginxServer, method: str, size: int, connections: int, seconds: float) -> float:
    """Requests per second."""
    counts = [0] * connections
    start, stop = threading.Barrier(connections + 1), threading.Event()
    body = os.urandom(size) if method == "PUT" else b""

    def work(index: int) -> None:
        key = ("big" if size == BIG else "small") if method == "GET" else f"put-{size}-{index}"
        head = f"{method} {server.target(method, key)} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        request = (head + (f"Content-Length: {size}\r\n" if body else "") + "\r\n").encode()
        buffer = bytearray(1024 * 1024)
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                exchange(connection, request, body, buffer)
            except BaseException:
                start.abort()
                raise
            start.wait()
            while not stop.is_set():
                exchange(connection, request, body, buffer)
                counts[index] += 1

    threads = [threading.Thread(target=work, args=(index,)) for index in range(connections)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


CASES = [
    ("GET 64 MiB, 1 connection", "GET", BIG, 1),
    ("PUT 64 MiB, 1 connection", "PUT", BIG, 1),
    ("GET 4 KiB, 1 connection", "GET", SMALL, 1),
    ("GET 4 KiB, 16 connections", "GET", SMALL, 16),
    ("PUT 4 KiB, 1 connection", "PUT", SMALL, 1),
    ("PUT 4 KiB, 16 connections", "PUT", SMALL, 16),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--nginx", default=shutil.which("nginx"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    with ExitStack() as stack:
        servers: dict[str, S3Server | NginxServer] = {"stratal": stack.enter_context(stratal())}
        if options.nginx:
            servers["nginx"] = stack.enter_context(nginx(options.nginx))
        for name, method, size, connections in CASES:
            runs = {
                n: [rate(s, method, size, connections, options.seconds) for _ in range(RUNS)]
                for n, s in servers.items()
            }
            unit = BIG / 1024**2 if size == BIG else 1.0
            results[name] = {n: statistics.median(values) * unit for n, values in runs.items()}
    if options.json:
        print(json.dumps(results))
        return
    for name, values in results.items():
        unit = "MiB/s" if "64 MiB" in name else "req/s"
        shown = [f"{peer} {value:,.0f} {unit}" for peer, value in values.items()]
        ratios = [
            f"{values['stratal'] / value:.2f}x {peer}" for peer, value in values.items() if peer != "stratal"
        ]
        print(f"{name:28} {'  '.join(shown)}   {'  '.join(ratios)}")


if __name__ == "__main__":
    main()
