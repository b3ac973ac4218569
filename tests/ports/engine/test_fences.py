"""What a workload can see and reach, and that its status tells exactly that."""

import contextlib
import http.server
import os
import socket
import socketserver
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from stratal.engines.local.adapter import LocalEngine
from stratal.engines.local.gpus import FakeGpus
from stratal.kernel.errors import Invalid, Unavailable

from .conftest import PYTHON, Bench, until

pytestmark = pytest.mark.anyio

FETCH = (
    "import socket, sys\n"
    "s = socket.create_connection(('127.0.0.1', 8484), timeout=20)\n"
    "s.sendall(b'GET /hello HTTP/1.0\\r\\n\\r\\n' + b'')\n"
    "data = b''\n"
    "while part := s.recv(65536): data += part\n"
    "print(data.split(b'\\r\\n\\r\\n', 1)[1].decode())\n"
)
URL = {"STRATAL_URL": "http://127.0.0.1:8484"}


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"the platform says " + self.path.encode())

    def do_PUT(self) -> None:
        length = int(self.headers["Content-Length"])
        total = 0
        while total < length:
            total += len(self.rfile.read(min(1 << 16, length - total)))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"%d" % total)

    def log_message(self, *_: object) -> None: ...

    def address_string(self) -> str:
        return "workload"


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@contextlib.contextmanager
def platform(path: Path) -> Iterator[None]:
    """A stand-in for the server: HTTP on a unix socket."""
    folder = os.open(path.parent, os.O_PATH)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    server = _Server(f"/proc/self/fd/{folder}/{path.name}", _Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        os.close(folder)


async def test_the_status_names_what_else_could_be_read(bench: Bench) -> None:
    isolation = (await bench.run(bench.sh("true", isolate=True))).isolation
    if bench.boxed:
        assert (isolation.sandbox, isolation.network) == ("bubblewrap", "open")
        assert list(isolation.other_inputs) == ["the network"]
    else:
        assert (isolation.sandbox, isolation.network) == ("none", "open")
        assert list(isolation.other_inputs) == ["the machine's files", "the network"]
    assert isolation.landlock == (bench.kind != "plain" and bench.fences.landlock)
    assert not isolation.complete


async def test_only_a_closed_box_is_complete(bench: Bench) -> None:
    isolation = (await bench.run(bench.sh("true", isolate=True, network="platform", env=URL))).isolation
    assert isolation.complete == bench.boxed


async def test_not_asked_for_means_not_isolated(bench: Bench) -> None:
    isolation = (await bench.run(bench.sh("true", isolate=False))).isolation
    assert (isolation.sandbox, isolation.landlock, isolation.complete) == ("none", False, False)


async def test_the_platforms_home_is_hidden(bench: Bench) -> None:
    secret = bench.home / "admin.key"
    theirs = bench.folder("theirs") / "data"
    theirs.write_text("somebody else's data")
    spec = bench.sh(
        f"cat {secret}; cat {theirs}; ls {bench.home}; ls {bench.run_dir}; cat {bench.run_dir}/keeper.token;"
        f"echo changed > {secret}; echo changed > {bench.home}/new; rm -rf {theirs.parent}; echo done",
        isolate=True,
    )
    await bench.run(spec)
    said = await bench.log(spec.attempt_id)
    assert "done" in said
    if bench.kind == "plain":
        assert "secret" in said  # nothing can hide it here, and the status says so
        return
    assert "secret" not in said
    assert "somebody" not in said
    assert '"token"' not in said
    assert "admin.key\n" not in said.replace(f"{secret}:", "")
    assert secret.read_text() == "the platform's secret"
    assert theirs.read_text() == "somebody else's data"
    assert not (bench.home / "new").exists()


async def test_what_it_was_given_to_read_it_cannot_change(bench: Bench) -> None:
    given = bench.folder("given")
    (given / "input").write_text("as it was")
    spec = bench.sh(f"cat {given}/input; echo other > {given}/input; echo x > {given}/new", read_only=[given])
    await bench.run(spec)
    assert (await bench.log(spec.attempt_id)).startswith("as it was")
    if bench.kind != "plain":
        assert (given / "input").read_text() == "as it was"
        assert not (given / "new").exists()


async def test_a_path_that_would_show_the_home_is_refused(bench: Bench) -> None:
    for path in (bench.home, bench.home.parent, Path("/")):
        with pytest.raises(Invalid):
            await bench.engine.start(bench.sh("true", isolate=True, read_only=[path]))
        with pytest.raises(Invalid):
            await bench.engine.start(bench.sh("true", isolate=True, cwd=path))


async def test_home_and_temporary_files_are_its_own(bench: Bench) -> None:
    script = (
        "import os, sys, tempfile; home = os.environ['HOME']; print(home != sys.argv[1], os.listdir(home))\n"
        "open(home + '/x', 'w').close(); f = tempfile.mkstemp()[1]; print('tmp', f)"
    )
    spec = bench.spec([PYTHON, "-I", "-c", script, str(Path.home())], isolate=True)
    status = await bench.run(spec)
    said = await bench.log(spec.attempt_id)
    assert status.exit_code == 0, said
    assert said.startswith("True []\n")
    made = Path(said.split("tmp ", 1)[1].strip())
    if bench.kind == "plain":
        made.unlink()  # the machine's own /tmp, as the status says
    await until(lambda: not made.exists())


async def test_a_box_has_its_own_processes_people_and_system(bench: Bench) -> None:
    if not bench.boxed:
        pytest.skip("only a box has")
    outside = f"outside-{bench.run_dir}"
    neighbour = bench.sh(f"echo up; sleep 600; : {outside}")
    await bench.engine.start(neighbour)
    await bench.said(neighbour.attempt_id, "up")
    spec = bench.sh(
        "cat /proc/*/cmdline | tr '\\0' ' '; ls -d /root /home/* /etc/shadow /etc/ssh /var/lib 2>/dev/null; "
        "touch /usr/x /x /etc/x 2>/dev/null; cut -d: -f1 /etc/passwd | tr '\\n' ' '; hostname",
        env={"PATH": "/usr/bin:/bin"},
    )
    await bench.run(spec)
    said = await bench.log(spec.attempt_id)
    assert outside not in said
    for private in ("/etc/shadow", "/etc/ssh", "/var/lib", "www-data"):
        assert private not in said.split("2>/dev/null", 1)[-1].replace(spec.argv[-1].replace("\0", " "), "")
    assert said.endswith("stratal\n")
    assert not Path("/usr/x").exists()


async def test_nobody_gains_privileges_inside(bench: Bench) -> None:
    spec = bench.sh("grep -E 'NoNewPrivs|CapEff' /proc/self/status", isolate=True)
    await bench.run(spec)
    said = await bench.log(spec.attempt_id)
    assert "NoNewPrivs:\t1" in said
    if bench.boxed:
        assert "CapEff:\t0000000000000000" in said


async def test_the_platform_is_reachable_and_nothing_else_is(bench: Bench) -> None:
    if not bench.boxed:
        pytest.skip("without a box the network cannot be closed, and the status says so")
    with platform(bench.platform_socket), socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code = FETCH + (
            "def refused(family, address):\n"
            "    try:\n"
            "        with socket.socket(family) as s: s.settimeout(5); s.connect(address); return False\n"
            "    except OSError: return True\n"
            f"print(refused(socket.AF_INET, ('127.0.0.1', {port})), refused(socket.AF_INET, ('1.1.1.1', 53)),\n"
            f"      refused(socket.AF_INET6, ('::1', {port})))\n"
            "print(sorted(n for _, n in socket.if_nameindex()))\n"
        )
        spec = bench.python(code, network="platform", env=URL)
        status = await bench.run(spec)
        said = await bench.log(spec.attempt_id)
    assert status.exit_code == 0, said
    assert said.startswith("the platform says /hello\nTrue True True\n['lo'")
    assert status.isolation.network == "platform"


async def test_a_platform_on_another_machine_is_reached_at_its_address(bench: Bench) -> None:
    if not bench.boxed:
        pytest.skip("only a box relays")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        await bench.engine.close()
        there = f"127.0.0.1:{server.server_address[1]}"
        bench.engine = LocalEngine(bench.run_dir, bench.home, None, platform_address=there)
        await bench.engine.connect()
        spec = bench.python(FETCH, network="platform", env=URL)
        status = await bench.run(spec)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert (await bench.log(spec.attempt_id)).startswith("the platform says /hello")
    assert status.isolation.network == "platform"


async def test_a_large_body_and_many_connections_pass(bench: Bench) -> None:
    if not bench.boxed:
        pytest.skip("only a box relays")
    size = 48 << 20
    code = (
        "import socket, threading\n"
        "def put(results):\n"
        "    s = socket.create_connection(('127.0.0.1', 8484))\n"
        f"    s.sendall(b'PUT / HTTP/1.0\\r\\nContent-Length: {size // 8}\\r\\n\\r\\n')\n"
        f"    [s.sendall(b'x' * (1 << 20)) for _ in range({size // 8 >> 20})]\n"
        "    data = b''\n"
        "    while part := s.recv(65536): data += part\n"
        "    results.append(data.split(b'\\r\\n\\r\\n', 1)[1])\n"
        "results = []; threads = [threading.Thread(target=put, args=(results,)) for _ in range(8)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]; print(results)\n"
    )
    with platform(bench.platform_socket):
        spec = bench.python(code, network="platform", env=URL)
        await bench.run(spec)
    assert await bench.log(spec.attempt_id) == f"{[b'%d' % (size // 8)] * 8}\n"


async def test_a_restarted_server_is_found_again(bench: Bench) -> None:
    if not bench.boxed:
        pytest.skip("only a box relays")
    wait = "import os, time\nwhile not os.path.exists('again'): time.sleep(0.02)\n"
    with platform(bench.platform_socket):
        spec = bench.python(
            FETCH.replace("decode()", "decode(), flush=True") + wait + FETCH, network="platform", env=URL
        )
        await bench.engine.start(spec)
        await bench.said(spec.attempt_id, "/hello")
    (bench.folder() / "again").touch()  # it asks while there is no server
    with platform(bench.platform_socket):
        status = await bench.ended(spec.attempt_id)
    assert status.exit_code == 0
    assert (await bench.log(spec.attempt_id)).count("the platform says /hello") == 2


async def test_only_the_devices_of_its_own_gpus_can_be_opened(bench: Bench) -> None:
    if not bench.boxed:
        pytest.skip("without bubblewrap device nodes are not fenced")
    if not Path("/dev/fuse").exists() or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no device here to stand for a GPU's")

    class OneGpu(FakeGpus):
        def devices(self, uuids: Sequence[str]) -> Sequence[str]:
            return [*super().devices(uuids), "/dev/fuse"]

    await bench.engine.close()
    bench.engine = LocalEngine(
        bench.run_dir, bench.home, bench.platform_socket, fences=bench.fences, gpus=OneGpu("h100:1")
    )
    await bench.engine.connect()
    look = "ls /dev/fuse && exec 3<>/dev/fuse && echo opened"
    given = bench.sh(look, gpus=["GPU-fake-h100-0"])
    assert (await bench.run(given)).exit_code == 0
    assert "opened" in await bench.log(given.attempt_id)
    bare = bench.sh(look)
    assert (await bench.run(bare)).exit_code != 0
    with pytest.raises(Unavailable, match="is not here"):
        await bench.engine.start(bench.sh("true", gpus=["GPU-gone"]))
