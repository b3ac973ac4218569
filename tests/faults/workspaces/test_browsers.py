"""Two people in one notebook, in real browsers, while the server, the keeper and the notebook server are killed."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Error, Page, WebSocket, sync_playwright

from platform_server import PlatformServer, is_gone, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.soak]
CHROMIUM = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]
NAME = "study"
CELL = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell .cm-content"
PATIENCE = 240.0
NOTEBOOK = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    "cells": [
        {
            "id": "one",
            "cell_type": "code",
            "metadata": {},
            "source": "# begin",
            "outputs": [],
            "execution_count": None,
        }
    ],
}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformServer]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    server = PlatformServer(tmp_path_factory.mktemp("workspaces") / "home")
    server.up()
    yield server
    server.down()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def workspace(platform: PlatformServer) -> dict[str, Any]:
    """A workspace that runs, with a notebook in it."""
    platform.json("workspace", "create", NAME)
    wait_until(lambda: shown(platform)["state"] == "running", seconds=900)
    with visiting(platform) as http:
        made = http.put("/api/contents/study.ipynb", json={"type": "notebook", "content": NOTEBOOK})
        assert made.status_code == 201, made.text
    return shown(platform)


def shown(platform: PlatformServer, name: str = NAME) -> dict[str, Any]:
    with platform.http() as http:
        found: dict[str, Any] = http.get(f"/api/v1/projects/default/workspaces/{name}").json()
        return found


def link(platform: PlatformServer, key: str | None = None, name: str = NAME) -> str:
    with platform.http(key) as http:
        answer = http.post(f"/api/v1/projects/default/workspaces/{name}/visits", json={})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["url"])


def visiting(platform: PlatformServer, key: str | None = None) -> httpx.Client:
    """A client without a browser, let in as one is: the name is sent as the Host, not resolved."""
    address = httpx.URL(link(platform, key))
    host = f"{address.host}:{address.port}"
    entered = httpx.get(f"{platform.url}{address.raw_path.decode()}", headers={"Host": host}, timeout=60)
    assert entered.status_code == 303, entered.text
    cookie = entered.headers["set-cookie"].partition(";")[0]
    assert "HttpOnly" in entered.headers["set-cookie"]
    assert "omain" not in entered.headers["set-cookie"]
    headers = {"Host": host, "Cookie": cookie, "Origin": f"http://{host}"}
    return httpx.Client(base_url=platform.url, headers=headers, timeout=60)


def notebook_pid(workspace: dict[str, Any]) -> int:
    """The notebook server's process on this machine."""
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0") if folder.name.isdigit() else []
            if any(w.endswith(b"notebooks/replica/__main__.py") for w in words[:6]) and any(
                workspace["id"].encode() in w for w in words
            ):
                return int(folder.name)
    raise AssertionError("the notebook server does not run")


def open_notebook(chromium: Browser, platform: PlatformServer, key: str | None = None) -> Page:
    page = chromium.new_context(viewport={"width": 1200, "height": 800}).new_page()
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(link(platform, key))
    page.wait_for_selector(".jp-Launcher, .jp-Notebook")
    page.goto(page.url.split("/lab")[0] + "/lab/tree/study.ipynb?reset")
    page.wait_for_selector(CELL)
    wait_until(lambda: close_dialogs(page) or "begin" in text(page), seconds=PATIENCE)
    return page


def text(page: Page) -> str:
    return page.locator(CELL).first.inner_text()


def type_at_the_end(page: Page, words: str) -> None:
    def typed() -> bool:
        close_dialogs(page)
        with suppress(Error):  # a dialog came in between
            page.locator(CELL).first.click(timeout=5000)
            page.keyboard.press("Control+End")
            page.keyboard.type(words)
        return words.strip() in text(page)

    wait_until(typed, seconds=PATIENCE)


def close_dialogs(page: Page) -> None:
    """JupyterLab says that it lost its server and goes on trying, or asks whether to wait on; it closes some itself."""
    asked = page.locator(".jp-Dialog")
    if asked.count():
        with suppress(Error):
            said = asked.first.inner_text(timeout=2000)
            assert "reconnect" in said or "Continue waiting" in said, said
            words = "Continue waiting" if "Continue waiting" in said else "Close"
            buttons = asked.first.locator(".jp-Dialog-footer button", has_text=words)
            buttons.first.click(timeout=2000)


def saved(platform: PlatformServer, name: str = NAME, path: str = "study.ipynb") -> str:
    """The newest save of the file, as the platform has it."""
    with platform.http() as http:
        base = f"/api/v1/projects/default/workspaces/{name}/saves"
        found = http.get(base, params={"path": path, "limit": 1}).json()["saves"]
        return http.get(f"{base}/{found[0]['id']}/content").text if found else ""


def test_what_one_types_the_other_sees_and_no_kill_loses_what_was_saved(
    chromium: Browser, platform: PlatformServer, workspace: dict[str, Any]
) -> None:
    bob = platform.key()
    ada, ben = open_notebook(chromium, platform), open_notebook(chromium, platform, bob)
    told: list[str] = []

    def both_write(round_: str) -> None:
        for number, (mine, other) in enumerate(((ada, ben), (ben, ada))):
            word = f"w{round_}{number}"
            type_at_the_end(mine, f" {word}")
            wait_until(lambda other=other, word=word: word in text(other), seconds=PATIENCE)
            told.append(word)
        wait_until(lambda: all(word in saved(platform) for word in told), seconds=PATIENCE)

    both_write("begin")
    assert set(shown(platform)["visitors"]) >= {"admin"}

    def kill_server() -> None:
        platform.kill()
        platform.up()

    def kill_keeper() -> None:
        platform.kill(platform.keeper_pid())

    def kill_notebook() -> None:
        victim = notebook_pid(workspace)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: is_gone(victim))
        wait_until(lambda: shown(platform)["state"] == "running", seconds=PATIENCE)

    for name, kill in (("server", kill_server), ("keeper", kill_keeper), ("notebook", kill_notebook)):
        kill()
        both_write(name)
        assert all(text(page).count(word) == 1 for word in told for page in (ada, ben)), (name, text(ada))
    file = platform.home / "workspaces" / workspace["id"] / "files" / "study.ipynb"
    assert all(word in file.read_text() for word in told)
    for page in (ada, ben):
        page.context.close()


def test_typed_and_not_yet_saved_survives_the_kill_of_the_notebook_server(
    chromium: Browser, platform: PlatformServer, workspace: dict[str, Any]
) -> None:
    page = open_notebook(chromium, platform)
    type_at_the_end(page, " unsaved")
    time.sleep(0.3)  # on its way to the server; the save comes a second after the last change
    os.kill(notebook_pid(workspace), signal.SIGKILL)
    page.context.close()  # no browser is left that could send it again
    wait_until(
        lambda: "unsaved" in saved(platform) or "unsaved" in on_disk(platform, workspace), seconds=PATIENCE
    )


def on_disk(platform: PlatformServer, workspace: dict[str, Any]) -> str:
    return (platform.home / "workspaces" / workspace["id"] / "files" / "study.ipynb").read_text()


@pytest.fixture
def heard() -> dict[Page, list[str | bytes]]:
    """What each page's WebSockets were sent: a terminal's screen is a picture."""
    return {}


def listen(said: list[str | bytes], socket: WebSocket) -> None:
    def take(frame: str | bytes) -> None:
        said.append(frame)

    socket.on("framereceived", take)


@pytest.fixture
def pair(
    chromium: Browser, platform: PlatformServer, heard: dict[Page, list[str | bytes]]
) -> Iterator[Callable[[str], list[Page]]]:
    """Two people's browsers, both let into a workspace that runs this program, under its name."""
    opened: list[Page] = []

    def open_both(program: str) -> list[Page]:
        platform.json("workspace", "create", program, "--program", program)
        wait_until(lambda: shown(platform, program)["state"] == "running", seconds=900)
        for key in (None, platform.key()):
            page = chromium.new_context(viewport={"width": 1200, "height": 800}).new_page()
            page.set_default_timeout(PATIENCE * 1000)
            heard[page] = []
            page.on("websocket", partial(listen, heard[page]))
            page.goto(link(platform, key, program))
            opened.append(page)
        return opened

    yield open_both
    for page in opened:
        page.context.close()
    for one in platform.json("workspace", "ls")["workspaces"]:
        if one["name"] != NAME:
            platform.cli("workspace", "rm", one["name"], "--yes")


def test_two_people_share_a_terminal_and_what_they_write_in_it_is_kept(
    pair: Callable[[str], list[Page]], platform: PlatformServer, heard: dict[Page, list[str | bytes]]
) -> None:
    ada, ben = pair("terminal")

    def screen(page: Page) -> str:
        page.evaluate("1")  # lets what came in be told
        told = [json.loads(said) for said in heard[page] if said[:1] == "["]
        return "".join(words[1] for words in told if words[0] == "stdout")

    for page in (ada, ben):
        page.wait_for_selector(".xterm-screen")
        wait_until(lambda page=page: "# " in screen(page) or "$ " in screen(page), seconds=PATIENCE)
    for number, (mine, other) in enumerate(((ada, ben), (ben, ada))):
        mine.click(".xterm-screen")
        mine.keyboard.type(f"echo 'print({number} + 40)' > note{number}.py && python note{number}.py\n")
        wait_until(lambda other=other, n=number: f"\r{n + 40}\r\n" in screen(other), seconds=PATIENCE)
        wait_until(
            lambda n=number: saved(platform, "terminal", f"note{n}.py") == f"print({n} + 40)\n",
            seconds=PATIENCE,
        )


def test_two_people_edit_and_run_one_marimo_notebook(
    pair: Callable[[str], list[Page]], platform: PlatformServer
) -> None:
    pages = pair("marimo")
    files = platform.home / "workspaces" / shown(platform, "marimo")["id"] / "files"
    cell = "@app.cell\ndef _():\n    x = 6 * 7\n    return (x,)\n\n"
    (files / "study.py").write_text(f"import marimo\n\napp = marimo.App()\n\n\n{cell}")
    for page in pages:
        page.goto(page.url.rstrip("/") + "/?file=study.py")
        page.wait_for_selector(".cm-content")
    for number, (mine, other) in enumerate((pages, pages[::-1])):
        mine.locator(".cm-content").first.click()
        mine.keyboard.press("Control+End")
        mine.keyboard.type(f"\nx + {1000 * (number + 1)}")
        mine.keyboard.press("Control+Enter")
        wait_until(
            lambda other=other, n=number: str(1000 * (n + 1) + 42) in other.inner_text("body"),
            seconds=PATIENCE,
        )
        wait_until(
            lambda n=number: f"x + {1000 * (n + 1)}" in saved(platform, "marimo", "study.py"),
            seconds=PATIENCE,
        )


def test_an_output_with_a_script_reaches_nothing_of_the_console(
    chromium: Browser, platform: PlatformServer, workspace: dict[str, Any]
) -> None:
    context = chromium.new_context()
    console = context.new_page()
    console.set_default_timeout(PATIENCE * 1000)
    console.goto(str(platform.json("login-link")["url"]))
    assert any(c["name"] == "stratal_session" for c in context.cookies())
    page = context.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(link(platform))
    page.wait_for_selector(".jp-Launcher, .jp-Notebook")
    hostile = f"""
        (async () => {{
          const tried = {{cookie: document.cookie}};
          for (const [name, address] of [["api", "{platform.url}/api/v1/whoami"], ["own", "/api/v1/whoami"],
                                         ["loc", "http://localhost:{platform.port}/api/v1/projects"]]) {{
            try {{
              const answer = await fetch(address, {{credentials: "include"}});
              tried[name] = answer.status + " " + (await answer.text()).slice(0, 80);
            }} catch (error) {{ tried[name] = "refused: " + error.message; }}
          }}
          try {{
            await fetch("{platform.url}/api/v1/projects/default/workspaces", {{method: "POST", credentials: "include",
              mode: "no-cors", headers: {{"Content-Type": "text/plain"}}, body: '{{"name": "planted"}}'}});
          }} catch (error) {{}}
          document.body.setAttribute("data-tried", JSON.stringify(tried));
        }})()"""
    notebook = {
        **NOTEBOOK,
        "cells": [
            {
                **NOTEBOOK["cells"][0],  # type: ignore[index]
                "outputs": [
                    {
                        "output_type": "display_data",
                        "metadata": {},
                        "data": {"text/html": f"<b>shown</b><script>{hostile}</script>"},
                    }
                ],
                "source": f"from IPython.display import HTML\nHTML('''<b>shown</b><script>{hostile}</script>''')",
            }
        ],
    }
    with visiting(platform) as http:
        assert http.put("/api/contents/x.ipynb", json={"type": "notebook", "content": notebook}).is_success
    page.goto(page.url.split("/lab")[0] + "/lab/tree/x.ipynb?reset")
    page.wait_for_selector(CELL)
    page.locator(CELL).first.click()
    page.locator("#jp-main-statusbar").filter(has_text="| Idle").wait_for()
    page.keyboard.press("Shift+Enter")  # run by its viewer, so its output is trusted: the script runs
    page.wait_for_selector("body[data-tried]", state="attached")
    tried = page.evaluate("JSON.parse(document.body.getAttribute('data-tried'))")
    assert "stratal" not in tried["cookie"]
    assert tried["api"].startswith("refused")
    assert tried["loc"].startswith("refused")
    assert tried["own"].startswith("404"), tried
    with platform.http() as http:
        names = [w["name"] for w in http.get("/api/v1/projects/default/workspaces").json()["workspaces"]]
    assert names == [NAME]
    context.close()


def test_a_revoked_key_is_out_at_once(
    chromium: Browser, platform: PlatformServer, workspace: dict[str, Any]
) -> None:
    token = platform.key()
    page = open_notebook(chromium, platform, token)
    ended: list[str] = []
    page.on("websocket", lambda socket: socket.on("close", lambda _: ended.append(socket.url)))
    page.reload()
    page.wait_for_selector(CELL)
    wait_until(lambda: len(shown(platform)["visitors"]) >= 1, seconds=PATIENCE)
    with platform.http() as http:
        assert http.delete(f"/api/v1/keys/{token.partition('.')[0]}").is_success
    wait_until(lambda: page.evaluate("1") and ended, seconds=PATIENCE)
    assert page.evaluate("fetch('/api/contents').then((answer) => answer.status)") == 401
    page.context.close()
