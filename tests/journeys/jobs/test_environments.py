"""Environments built for real, by uv through the local engine, from a folder of packages made here."""

import asyncio
import hashlib
import http.server
import io
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from uv import find_uv_bin

from stratal.app.tables import metadata
from stratal.compute.engine import WorkloadSpec, WorkloadStatus
from stratal.compute.environments import Environments
from stratal.compute.package_sources import NO_INDEX
from stratal.compute.workloads import Workloads
from stratal.engines.local.adapter import LocalEngine
from stratal.kernel.clock import system_clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, NotFound
from stratal.stores.local import LocalBlobs

BACKEND = """
import os, zipfile
def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "fromsource-1.0-py3-none-any.whl"
    seen = {"cache": os.environ.get("UV_CACHE_DIR"), "home": os.environ.get("HOME")}
    seen["keys"] = os.path.exists("%(hidden)s")
    with zipfile.ZipFile(os.path.join(directory, name), "w") as z:
        z.writestr("fromsource.py", f"SEEN = {seen!r}\\n")
        z.writestr("fromsource-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: fromsource\\nVersion: 1.0\\n")
        z.writestr("fromsource-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        z.writestr("fromsource-1.0.dist-info/RECORD", "")
    return name
"""


class CountingEngine(LocalEngine):
    """The local engine, remembering what it was asked to start."""

    def __init__(self, home: Path) -> None:
        super().__init__(home / "run" / "keeper", home, None)
        self.asked: list[WorkloadSpec] = []

    async def start(self, spec: WorkloadSpec) -> WorkloadStatus:
        self.asked.append(spec)
        return await super().start(spec)


class Shop:
    """A folder of packages, and environments that know no other source."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.packages = root / "packages"
        self.packages.mkdir()
        self.home = root / "home"
        (self.home / "keys").mkdir(parents=True)
        (self.home / "keys" / "master.key").write_text("secret")
        self.sources: dict[str, str] = {
            "UV_FIND_LINKS": str(self.packages),
            "UV_DEFAULT_INDEX": NO_INDEX,
            "UV_CACHE_DIR": str(root / "shared-cache"),
            "HOME": str(root),
        }
        self.lines: list[str] = []

    def wheel(self, name: str, version: str) -> None:
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(self.packages / f"{name}-{version}-py3-none-any.whl", "w") as file:
            file.writestr(f"{name}.py", f"VERSION = {version!r}\n")
            file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            file.writestr(
                f"{info}/WHEEL",
                "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            )
            file.writestr(f"{info}/RECORD", f"{name}.py,,\n")

    def source_package(self) -> None:
        project = (
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
            '[project]\nname = "fromsource"\nversion = "1.0"\n'
        )
        backend = BACKEND % {"hidden": self.home / "keys" / "master.key"}
        info = "Metadata-Version: 2.1\nName: fromsource\nVersion: 1.0\n"
        with tarfile.open(self.packages / "fromsource-1.0.tar.gz", "w:gz") as file:
            for name, text in (("pyproject.toml", project), ("backend.py", backend), ("PKG-INFO", info)):
                entry = tarfile.TarInfo(f"fromsource-1.0/{name}")
                entry.size = len(text.encode())
                file.addfile(entry, io.BytesIO(text.encode()))

    async def open(self) -> None:
        self.database = Database(self.home / "shop.db")
        self.database.write_now(metadata.create_all)
        self.blobs = LocalBlobs(self.home / "blobs")
        self.engine = CountingEngine(self.home)
        await self.engine.connect()
        self.workloads = Workloads(self.engine)
        await self.workloads.start()
        self.environments = Environments(
            self.database,
            self.blobs,
            self.workloads,
            self.home / "envs",
            system_clock,
            uv=Path(find_uv_bin()),
            sources=lambda: self.sources,
        )
        await self.environments.start()

    async def close(self) -> None:
        await self.environments.close()
        await self.workloads.close()
        await self.engine.shutdown(kill=True)
        await self.blobs.close()
        self.database.close()

    def python(self, python: Path, code: str) -> str:
        return subprocess.check_output([python, "-c", code], text=True).strip()


@pytest.fixture
def in_shop(tmp_path: Path) -> Callable[[Callable[[Shop], Awaitable[None]]], None]:
    def run(story: Callable[[Shop], Awaitable[None]]) -> None:
        async def main() -> None:
            shop = Shop(tmp_path)
            await shop.open()
            try:
                await story(shop)
            finally:
                await shop.close()

        asyncio.run(main())

    return run


@pytest.fixture
def empty_index() -> Iterator[int]:
    """The port of a package index that knows no package."""

    class Nothing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as index:
        thread = threading.Thread(target=index.serve_forever)
        thread.start()
        yield index.server_port
        index.shutdown()
        thread.join()


InShop = Callable[[Callable[[Shop], Awaitable[None]]], None]


def test_the_default_is_python_and_nothing_else(in_shop: InShop) -> None:
    async def story(shop: Shop) -> None:
        made = await shop.environments.for_requirements("# nothing\n")
        assert shop.python(made.python, "import sys; print(sys.prefix)") == str(made.path)
        with pytest.raises(subprocess.CalledProcessError):
            shop.python(made.python, "import stratal")
        assert (await shop.environments.for_requirements("")) == made

    in_shop(story)


def test_the_same_requirements_mean_the_same_packages_until_asked_anew(in_shop: InShop) -> None:
    async def story(shop: Shop) -> None:
        shop.wheel("tool", "1.0")
        first = await shop.environments.for_requirements("tool>=1", progress=shop.lines.append)
        assert shop.python(first.python, "import tool; print(tool.VERSION)") == "1.0"
        assert any("1 package" in line for line in shop.lines)
        lock = await shop.environments.lock(first.id)
        assert hashlib.sha256(lock).hexdigest() == first.id
        assert b"tool==1.0" in lock
        assert b"--hash=sha256:" in lock
        shop.wheel("tool", "2.0")
        asked = len(shop.engine.asked)
        again = await shop.environments.for_requirements("  tool>=1   # the tool\n")
        assert (again.id, len(shop.engine.asked)) == (first.id, asked)
        newer = await shop.environments.for_requirements("tool>=1", upgrade=True)
        assert shop.python(newer.python, "import tool; print(tool.VERSION)") == "2.0"
        assert (await shop.environments.for_requirements("tool>=1")).id == newer.id
        assert shop.python(first.python, "import tool; print(tool.VERSION)") == "1.0"

    in_shop(story)


def test_many_who_ask_at_once_get_one_build_and_all_hear_of_it(in_shop: InShop) -> None:
    async def story(shop: Shop) -> None:
        shop.wheel("tool", "1.0")
        heard: list[list[str]] = [[] for _ in range(5)]
        found = await asyncio.gather(
            *(shop.environments.for_requirements("tool", progress=lines.append) for lines in heard)
        )
        assert len({made.id for made in found}) == 1
        assert len(shop.engine.asked) == 2, "one resolution, one build"
        assert heard[0] == heard[4] != []

    in_shop(story)


def test_one_who_stops_waiting_does_not_stop_the_others(in_shop: InShop) -> None:
    async def story(shop: Shop) -> None:
        shop.wheel("tool", "1.0")
        hasty = asyncio.create_task(shop.environments.for_requirements("tool"))
        patient = asyncio.create_task(shop.environments.for_requirements("tool"))
        while not shop.engine.asked:
            await asyncio.sleep(0.01)
        hasty.cancel()
        assert (await patient).python.exists()

    in_shop(story)


def test_byte_code_is_compiled_and_a_lost_folder_is_built_again(in_shop: InShop) -> None:
    async def story(shop: Shop) -> None:
        shop.wheel("tool", "1.0")
        made = await shop.environments.for_requirements("tool")
        assert list(made.path.glob("lib/python*/site-packages/__pycache__/tool*.pyc"))
        subprocess.run(["rm", "-rf", str(made.path)], check=True)
        again = await shop.environments.get(made.id)
        assert shop.python(again.python, "import tool; print(tool.VERSION)") == "1.0"
        with pytest.raises(NotFound):
            await shop.environments.get("0" * 64)

    in_shop(story)


def test_packages_without_wheels_are_built_in_the_sandbox_with_a_cache_of_their_own(in_shop: InShop) -> None:
    async def story(shop: Shop) -> None:
        shop.source_package()
        made = await shop.environments.for_requirements("fromsource", progress=shop.lines.append)
        seen = eval(shop.python(made.python, "import fromsource; print(fromsource.SEEN)"))
        assert any("building from source" in line for line in shop.lines)
        assert seen["cache"] != shop.sources["UV_CACHE_DIR"]
        assert seen["home"] != shop.sources["HOME"]
        builds = [spec for spec in shop.engine.asked if spec.isolate]
        assert builds
        assert all("--no-build" in spec.argv for spec in shop.engine.asked if not spec.isolate)
        if sys.platform == "linux" and Path("/usr/bin/bwrap").exists():
            assert seen["keys"] is False

    in_shop(story)


def test_code_of_packages_does_not_run_beside_credentials(in_shop: InShop, empty_index: int) -> None:
    async def story(shop: Shop) -> None:
        shop.source_package()
        shop.sources["UV_DEFAULT_INDEX"] = f"http://joe:s3cret@127.0.0.1:{empty_index}/simple"
        with pytest.raises(Invalid, match="credentials") as caught:
            await shop.environments.for_requirements("fromsource", progress=shop.lines.append)
        assert not any(spec.isolate for spec in shop.engine.asked)
        assert "s3cret" not in str(caught.value) + "".join(shop.lines)

    in_shop(story)


def test_credentials_never_reach_messages_locks_or_keys(in_shop: InShop, empty_index: int) -> None:
    async def story(shop: Shop) -> None:
        shop.wheel("tool", "1.0")
        shop.sources["UV_INDEX"] = f"http://joe:s3cret@127.0.0.1:{empty_index}/simple"
        made = await shop.environments.for_requirements("tool", progress=shop.lines.append)
        assert b"s3cret" not in await shop.environments.lock(made.id)
        shop.sources["UV_INDEX"] = f"http://joe:changed@127.0.0.1:{empty_index}/simple"
        asked = len(shop.engine.asked)
        assert (await shop.environments.for_requirements("tool")).id == made.id
        assert len(shop.engine.asked) == asked, "a changed password is not another source"
        shop.sources |= {
            "UV_HTTP_RETRIES": "0",
            "UV_DEFAULT_INDEX": f"http://joe:s3cret@127.0.0.1:{empty_index}/simple",
        }
        with pytest.raises(Invalid) as caught:
            await shop.environments.for_requirements("absent", progress=shop.lines.append)
        assert "s3cret" not in str(caught.value) + "".join(shop.lines)

    in_shop(story)


def test_what_cannot_be_is_said_in_the_resolvers_words(in_shop: InShop) -> None:
    async def story(shop: Shop) -> None:
        shop.wheel("tool", "1.0")
        with pytest.raises(Invalid, match="tool==9") as caught:
            await shop.environments.for_requirements("tool==9")
        assert caught.value.reason == "environment_failed"
        shop.wheel("tool", "9")
        assert (await shop.environments.for_requirements("tool==9")).packages == 1

    in_shop(story)


def test_a_damaged_lock_is_never_built(in_shop: InShop) -> None:
    async def story(shop: Shop) -> None:
        shop.wheel("tool", "1.0")
        made = await shop.environments.for_requirements("tool")
        path = shop.blobs.local_path(made.lock_blob)
        assert path is not None
        path.chmod(0o600)
        path.write_bytes(path.read_bytes().replace(b"tool==1.0", b"tool==1.1"))
        subprocess.run(["rm", "-rf", str(made.path)], check=True)
        with pytest.raises(Invalid, match="damaged"):
            await shop.environments.get(made.id)

    in_shop(story)


def test_half_built_folders_of_a_killed_server_are_swept(in_shop: InShop) -> None:
    async def story(shop: Shop) -> None:
        shop.wheel("tool", "1.0")
        await shop.environments.close()
        left = shop.home / "envs" / ".building" / "old" / "env"
        left.mkdir(parents=True)
        await shop.environments.start()
        await shop.environments.for_requirements("tool")
        assert not left.exists()
        assert not list((shop.home / "envs" / ".building").iterdir())

    in_shop(story)
