"""The chat page with a language model of random weights, in a real browser."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Error, Page, expect

from platform_server import PlatformServer, wait_until
from tiny_gguf import write_gguf

UPLOAD = """
from huggingface_hub import HfApi
HfApi().create_repo("parrot")
HfApi().upload_file(path_or_fileobj="parrot.gguf", path_in_repo="parrot.gguf", repo_id="parrot")
"""


@pytest.mark.soak
def test_an_answer_comes_as_it_is_written_and_stops_when_it_is_told_to(
    tab: Callable[..., Any], server: PlatformServer, tmp_path: Path
) -> None:
    project = server.project()
    write_gguf(tmp_path / "parrot.gguf")
    env = {**server.environ(), **server.env(project), "HF_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-W", "ignore", "-c", UPLOAD], env=env, cwd=tmp_path, check=True)
    server.json("deploy", "models:/parrot/1", "--name", "parrot", "--project", project, timeout=900)
    opened = tab()
    page: Page = opened.go(f"/projects/{project}/chat")
    expect(page.locator("#writer")).to_have_value("parrot")
    page.fill("#most", "12")
    page.fill("#message", "hello")
    page.keyboard.press("Enter")
    first = page.locator(".turn.assistant").first
    expect(first).to_contain_text("12 tokens, cut off at its limit", timeout=60_000)
    expect(page.locator(".turn.user")).to_have_text("Youhello")
    page.fill("#most", "16000")
    last = page.locator(".turn.assistant").last
    for _ in range(20):  # what has no sense may end by itself at any word
        page.fill("#message", "again")
        page.click("#send")
        place = page.locator("#stop").bounding_box()
        expect(last).to_contain_text(re.compile(".{400}", re.DOTALL), timeout=60_000)
        assert (
            page.locator("#stop").bounding_box() == place
        )  # what is written never pushes it from under the pointer
        try:
            page.click("#stop", timeout=30_000)
            break
        except Error:
            assert page.locator("#stop").is_disabled()
    expect(last).to_contain_text("Stopped.", timeout=60_000)
    told = len(last.inner_text())
    assert told < 12_000  # of 16,000 tokens, each at least a byte
    with server.http() as http:
        path = f"/api/v1/projects/{project}/endpoints/parrot"
        wait_until(lambda: http.get(path).json()["in_flight"] == 0, seconds=60)
    assert len(last.inner_text()) == told
    expect(page.locator("#send")).to_be_enabled()
    page.click("#anew")
    expect(page.locator(".turn")).to_have_count(0)
    page.fill("#message", "x" * 30_000)
    page.click("#send")
    expect(page.locator(".turn.assistant .problem")).to_contain_text("context", timeout=60_000)
    opened.troubles = [one for one in opened.troubles if "400" not in one]  # of the message that was too long
