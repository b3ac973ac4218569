"""A real Chromium on a running platform with something in it; skipped where no Chromium is installed."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

from platform_server import PlatformServer, wait_until

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
    None,
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
DESK = {"width": 1360, "height": 860}
PHONE = {"width": 390, "height": 844}
HOSTILE = "<img src=x onerror=window.hacked=1>"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Ended with its module: while Playwright's own event loop runs, no other test could run one."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed: the console's pages are only checked in a real browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def link(server: PlatformServer) -> str:
    return str(server.json("login-link")["url"])


@dataclass
class Tab:
    """A signed-in page, and what it complained of: console errors, script errors, requests to elsewhere."""

    page: Page
    url: str
    troubles: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.troubles.append(f"script error: {error}"))
        self.page.on("request", self._on_request)
        self.page.on("dialog", self._on_dialog)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.troubles.append(f"console: {message.text}")

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith((self.url, "data:")):
            self.troubles.append(f"asked elsewhere: {request.url}")

    def _on_dialog(self, dialog: Any) -> None:
        self.troubles.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def go(self, path: str) -> Page:
        self.page.goto(self.url + path)
        return self.page

    def live(self, path: str) -> Page:
        """Open a page and wait until it follows the event stream."""
        page = self.go(path)
        page.wait_for_selector("#live[data-state=live]")
        return page


@pytest.fixture(scope="module")
def session(chromium: Browser, server: PlatformServer) -> Any:
    """The cookies of somebody who signed in through a link."""
    context = chromium.new_context()
    context.new_page().goto(link(server))
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def tab(chromium: Browser, server: PlatformServer, session: Any) -> Iterator[Callable[..., Tab]]:
    """Opens tabs: ``tab(dark=True, phone=True)``. Fails the test when a page complained of anything."""
    opened: list[tuple[BrowserContext, Tab]] = []

    def open_tab(*, dark: bool = False, phone: bool = False, **options: Any) -> Tab:
        context = chromium.new_context(
            storage_state=session,
            color_scheme="dark" if dark else "light",
            viewport=PHONE if phone else DESK,
            **options,
        )
        made = Tab(context.new_page(), server.url)
        opened.append((context, made))
        return made

    yield open_tab
    for context, made in opened:
        context.close()
        assert made.troubles == []


@dataclass(frozen=True)
class World:
    """A project with a bit of everything, some of it with a hostile name."""

    name: str
    key: str
    done: int
    running: int
    hostile: int
    runs: tuple[str, ...]

    @property
    def base(self) -> str:
        return f"/projects/{self.name}"


@pytest.fixture(scope="session")
def world(server: PlatformServer) -> World:
    name = server.project()
    key = server.key(name)
    with server.http(key) as http:

        def job(name_: str, code: str, **more: Any) -> int:
            body = {"name": name_, "argv": ["python", "-c", code], "memory_bytes": 256 << 20, **more}
            answer = http.post(f"/api/v1/projects/{name}/jobs", json=body)
            assert answer.status_code == 201, answer.text
            return int(answer.json()["id"])

        done = job("quick", "print('one'); print('two')")
        hostile = job("hostile", f"print({HOSTILE!r}); print('\\x1b[31mred\\x1b[0m')", env={"NOTE": HOSTILE})
        running = job("slow", "import time\nwhile True: print('tick', flush=True); time.sleep(0.2)")
        runs = tuple(_run(http, f"net-{number:02}", number) for number in range(25))
        _run(http, HOSTILE, 99)
        rows = "id,label\n1,benign\n2,malignant\n" + f'3,"{HOSTILE}"\n'
        table = http.put(f"/api/v1/projects/{name}/tables/clinic.ecg/import?filename=a.csv", content=rows)
        assert table.status_code == 201, table.text
        bucket = f"measurements-{name}"
        assert http.post(f"/api/v1/projects/{name}/buckets", json={"name": bucket}).status_code == 201
        for object_key in ("2026/a.csv", "2026/b c+d%2F.csv", HOSTILE):
            stored = http.put(
                f"/api/v1/projects/{name}/buckets/{bucket}/object", params={"key": object_key}, content=b"x"
            )
            assert stored.status_code == 201

        _push(server, key, name)

        def state(number: int) -> str:
            return str(http.get(f"/api/v1/projects/{name}/jobs/{number}").json()["state"])

        wait_until(lambda: state(done) == state(hostile) == "succeeded" and state(running) == "running")
    return World(name, key, done, running, hostile, runs)


def _push(server: PlatformServer, key: str, project: str) -> None:
    """A repository with a README and a hostile name in it, pushed by git."""
    with server.http(key) as http:
        made = http.post(f"/api/v1/projects/{project}/repositories", json={"name": "study"})
        assert made.status_code == 201
    with tempfile.TemporaryDirectory() as folder:
        git = ["git", "-C", folder, "-c", f"http.extraHeader=Authorization: Bearer {key}"]
        git += ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
        subprocess.run(["git", "init", "-q", "-b", "main", folder], check=True)
        Path(folder, "README.md").write_text(f"# Study {HOSTILE}\n")
        Path(folder, "train.py").write_text("print('hello')\n" * 3)
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-qm", f"Begin {HOSTILE}"], check=True)
        subprocess.run([*git, "push", "-q", f"{server.url}/git/{project}/study.git", "main"], check=True)


def _run(http: Any, name: str, number: int) -> str:
    """A run as MLflow's client would log it, over MLflow's protocol."""
    api = "/api/2.0/mlflow/runs"
    made = http.post(
        f"{api}/create", json={"experiment_id": "0", "run_name": name, "start_time": 1_790_000_000_000}
    )
    run_id = str(made.json()["run"]["info"]["run_id"])
    points = [
        {"key": key, "value": (number + 1) / (step + 1), "timestamp": 1_790_000_000_000 + step, "step": step}
        for key in ("loss", "val/auc")
        for step in range(40)
    ]
    params = [{"key": "lr", "value": "0.001"}, {"key": "note", "value": name}]
    batch = {"run_id": run_id, "metrics": points, "params": params, "tags": [{"key": "who", "value": name}]}
    assert http.post(f"{api}/log-batch", json=batch).status_code == 200
    return run_id


@pytest.fixture(scope="session")
def demo(server: PlatformServer) -> dict[str, Any]:
    """What ``stratal demo`` left behind: a prediction, and everything that it came from."""
    return server.json("demo", timeout=600)
