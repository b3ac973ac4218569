"""What moves: logs as they are written, news as it comes, filters, keys, themes, copying."""

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_plus

import pytest
from playwright.sync_api import expect

from platform_server import PlatformServer

pytestmark = pytest.mark.browser


def submit(server: PlatformServer, project: str, name: str, code: str) -> int:
    body = {"name": name, "argv": ["python", "-c", code], "memory_bytes": 256 << 20}
    with server.http() as http:
        answer = http.post(f"/api/v1/projects/{project}/jobs", json=body)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def test_a_log_arrives_as_it_is_written_and_the_page_follows_the_job(
    tab: Callable[..., Any], server: PlatformServer, world: Any, tmp_path: Any
) -> None:
    code = "import time\nfor i in range(12): print('line', i, flush=True); time.sleep(0.15)\nprint('the end')"
    number = submit(server, world.name, "talks", code)
    page = tab().live(f"{world.base}/jobs/{number}")
    log = page.locator("#log")
    expect(log).to_contain_text("line 2", timeout=30_000)
    expect(log).to_contain_text("the end", timeout=30_000)
    expect(page.locator(".panel .head .state").first).to_have_text("Done", timeout=15_000)
    wanted = "".join(f"line {i}\n" for i in range(12)) + "the end\n"
    assert log.text_content() == wanted


def test_a_progress_bar_and_colours_are_shown_as_a_terminal_would(
    tab: Callable[..., Any], server: PlatformServer, world: Any
) -> None:
    code = "print('\\x1b[32mgreen\\x1b[0m'); [print(f'\\r{i}%', end='') for i in range(101)]; print('\\nok \\u00e9')"
    number = submit(server, world.name, "bar", code)
    page = tab().live(f"{world.base}/jobs/{number}")
    expect(page.locator("#log")).to_contain_text("ok é", timeout=30_000)
    assert page.locator("#log").text_content() == "green\n100%\nok é\n"


def test_news_never_moves_rows_under_the_pointer(
    tab: Callable[..., Any], server: PlatformServer, world: Any
) -> None:
    page = tab().live(f"{world.base}/jobs")
    first = page.locator("tbody tr").first
    before = first.get_attribute("id")
    first.hover()
    number = submit(server, world.name, "news", "print(1)")
    expect(page.locator("#fresh")).to_have_text("Show 1 new", timeout=15_000)
    assert page.locator("tbody tr").first.get_attribute("id") == before
    assert page.locator(f"#job-{number}").count() == 0
    page.mouse.move(700, 5)
    expect(page.locator("tbody tr").first).to_have_attribute("id", f"job-{number}")
    expect(page.locator("#fresh")).to_be_hidden()
    expect(page.locator(f"#job-{number} .state")).to_have_text("Done", timeout=30_000)


def test_pausing_stops_the_news(tab: Callable[..., Any], server: PlatformServer, world: Any) -> None:
    page = tab().live(f"{world.base}/jobs")
    page.locator("#live").click()
    expect(page.locator("#live")).to_have_text("Paused")
    number = submit(server, world.name, "unseen", "print(1)")
    page.wait_for_timeout(1500)
    assert page.locator(f"#job-{number}").count() == 0
    page.locator("#live").click()
    expect(page.locator(f"#job-{number}")).to_be_visible(timeout=15_000)


def test_filter_and_sort_live_in_the_address(tab: Callable[..., Any], world: Any) -> None:
    page = tab().live(f"{world.base}/runs")
    total = page.locator("tbody tr").count()
    page.keyboard.press("/")
    page.keyboard.type("net-1 loss<0.4", delay=20)
    expect(page.locator("tbody tr")).to_have_count(5)
    assert "q=net-1 loss<0.4" in unquote_plus(page.url)
    assert page.locator("#filter").input_value() == "net-1 loss<0.4"
    page.get_by_role("link", name="loss", exact=True).click()
    page.wait_for_selector("th[aria-sort=descending]")
    assert "sort=-loss" in page.url
    names = page.locator("tbody td.name:nth-child(2)").all_inner_texts()
    assert names == ["net-14", "net-13", "net-12", "net-11", "net-10"]
    page.reload()
    assert page.locator("tbody td.name:nth-child(2)").all_inner_texts() == names
    page.locator("#filter").fill("")
    expect(page.locator("tbody tr")).to_have_count(total)


def test_the_palette_searches_goes_and_closes(tab: Callable[..., Any], world: Any) -> None:
    page = tab().live(f"{world.base}/jobs")
    page.keyboard.press("Control+k")
    all_of_them = page.locator("#found li").count()
    page.keyboard.type("clinic")
    expect(page.locator("#found li")).to_have_count(1)
    assert all_of_them > 5
    assert page.locator("#found li").inner_text().split() == ["clinic.ecg", "table"]
    page.keyboard.press("Escape")
    expect(page.locator("#palette")).to_be_hidden()
    page.keyboard.press("Control+k")
    page.keyboard.type("net-03")
    expect(page.locator("#found li")).to_have_count(1)
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/runs/{world.runs[3]}")


def test_keys_go_move_open_and_help(tab: Callable[..., Any], world: Any) -> None:
    page = tab().live(f"{world.base}/jobs")
    for keys, where in (("gr", "runs"), ("gs", "tables"), ("ge", "endpoints"), ("gj", "jobs")):
        for key in keys:
            page.keyboard.press(key)
        page.wait_for_url(f"**{world.base}/{where}")
        page.wait_for_selector("#live:not([hidden])")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    rows = page.locator("[data-rows] > tr")
    ids = [rows.nth(i).get_attribute("id") for i in range(3)]
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.closest('tr').id") == ids[1]
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/jobs/{str(ids[1]).removeprefix('job-')}")


def test_selected_runs_are_drawn_in_their_rows_colours_and_move_nothing(
    tab: Callable[..., Any], world: Any
) -> None:
    opened = tab()
    page = opened.live(f"{world.base}/runs")
    place = page.locator("tbody tr").first.bounding_box()
    page.keyboard.press("j")
    page.keyboard.press("x")
    page.wait_for_selector(".plot[data-points='40'] canvas")
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.locator(".pick[aria-checked=true]")).to_have_count(2)
    assert page.locator("tbody tr").first.bounding_box() == place
    assert page.url.count("%2C") == 1
    colours = page.evaluate(
        "[...document.querySelectorAll('.pick[aria-checked=true] .swatch')].map(s => getComputedStyle(s).backgroundColor)"
    )
    assert len(set(colours)) == 2
    page.get_by_role("link", name="Clear").click()
    page.wait_for_selector(".dock", state="detached")


def test_charts_and_theme_follow_the_choice_and_it_is_remembered(tab: Callable[..., Any], world: Any) -> None:
    opened = tab(dark=True)
    page = opened.live(f"{world.base}/runs/{world.runs[0]}")
    page.wait_for_selector(".plot[data-points] canvas")
    paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    page.get_by_role("button", name="Theme").click()
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") != paper
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.get_by_role("button", name="Theme").click()
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") is None, "it follows the system again"


def test_copying(tab: Callable[..., Any], world: Any) -> None:
    opened = tab(permissions=["clipboard-read", "clipboard-write"])
    page = opened.go(f"{world.base}/jobs")
    page.locator(".ways .copy").first.click()
    expect(page.locator("#said")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()").startswith(f"stratal jobs --project {world.name}")


def test_a_chip_opens_its_chain_beside_the_page(tab: Callable[..., Any], world: Any) -> None:
    page = tab().live(f"{world.base}/tables")
    page.locator("tbody .chip").click()
    page.wait_for_selector("#panel[open] .verdict .state.done")
    page.keyboard.press("Escape")
    expect(page.locator("#panel")).to_be_hidden()
    assert page.url.endswith("/tables")


def test_when_the_server_is_killed_the_page_says_so_and_the_log_goes_on_where_it_was(
    chromium: Any, fresh_server: PlatformServer
) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.goto(str(fresh_server.json("login-link")["url"]))
    code = "import time\nfor i in range(90): print(i, end=' ', flush=True); time.sleep(0.1)\nprint('end')"
    number = submit(fresh_server, "default", "long", code)
    page.goto(f"{fresh_server.url}/projects/default/jobs/{number}")
    page.wait_for_selector("#live[data-state=live]")
    expect(page.locator("#log")).to_contain_text("3 4 5", timeout=30_000)
    fresh_server.kill()
    page.wait_for_selector("#live[data-state=reconnecting]", timeout=30_000)
    fresh_server.up()
    page.wait_for_selector("#live[data-state=live]", timeout=60_000)
    expect(page.locator("#log")).to_contain_text("end", timeout=60_000)
    assert page.locator("#log").text_content() == "".join(f"{i} " for i in range(90)) + "end\n"
    expect(page.locator(".panel .head .state").first).to_have_text("Done", timeout=15_000)
    context.close()
