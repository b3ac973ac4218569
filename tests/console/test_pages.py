"""Every page in a real browser: nothing for axe to find, nothing that runs, nothing that does not fit."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from platform_server import PlatformServer

pytestmark = pytest.mark.browser


_INJECT = """() => {
    const script = document.createElement("script");
    script.textContent = "window.hacked = 1";
    const box = document.createElement("div");
    box.innerHTML = "<b onclick='window.hacked = 1'>x</b>";
    document.body.append(script, box);
    box.firstChild.click();
}"""


def axe(page: Page, *rules: str) -> list[str]:
    """What axe holds against the page as it is now; by these rules alone when any are named."""
    options = {"runOnly": {"type": "rule", "values": list(rules)}} if rules else None
    found = Axe().run(page, options=options).response["violations"]
    return [f"{v['id']}: {n['html'][:160]} {n['failureSummary'][:300]}" for v in found for n in v["nodes"]]


@pytest.fixture(scope="module")
def addresses(world: Any, demo: dict[str, Any], server: PlatformServer) -> list[str]:
    """Every page, with what the world and the demo hold."""
    base, bucket = world.base, f"measurements-{world.name}"
    with server.http() as http:
        shown = http.get("/api/v1/projects/demo/tables").json()["tables"][0]
        text = "# Said\n\n```sql bar\nselect 'a' as x, 1 as y\n```\n\n```sql table\nselect 1 as n\n```\n"
        made = http.post(f"/api/v1{base}/reports", json={"name": "weekly", "text": text})
        assert made.status_code in {201, 409}, made.text
        (job,) = http.get("/api/v1/projects/demo/jobs", params={"limit": 1}).json()["jobs"]
    return [
        "/login",
        "/nothing/here",
        base,
        f"{base}/jobs",
        f"{base}/jobs/{world.running}",
        f"{base}/jobs/{world.hostile}",
        f"{base}/runs",
        f"{base}/runs?select={','.join(world.runs[:5])}",
        f"{base}/runs/{world.runs[0]}",
        f"{base}/tables",
        f"{base}/tables/clinic.ecg",
        f"{base}/buckets",
        f"{base}/buckets/{bucket}",
        f"{base}/buckets/{bucket}?object=2026%2Fb%20c%2Bd%252F.csv",
        f"{base}/models",
        f"{base}/endpoints",
        f"{base}/gallery",
        f"{base}/gallery/rapidocr",
        f"{base}/gallery/espeak-ng",
        f"{base}/indexes",
        f"{base}/find",
        f"{base}/gallery/whisper-base",
        f"{base}/chat",
        f"{base}/why",
        f"{base}/solutions",
        f"{base}/solutions/disease-diagnosis",
        f"{base}/audit",
        f"{base}/cost",
        f"{base}/cost?by=project",
        f"{base}/reports",
        f"{base}/reports/weekly",
        f"{base}/reports/weekly/edit",
        f"{base}/members",
        f"{base}/keys",
        f"{base}/sessions",
        f"{base}/settings",
        f"{base}/repositories/study",
        f"{base}/repositories/study/file?path=train.py&blame=yes",
        f"{base}/repositories/study/commits/main",
        "/projects/demo",
        f"/projects/demo/jobs/{job['id']}",
        f"/projects/demo/jobs/{job['id']}/code",
        "/projects/demo/models",
        "/projects/demo/models/breast-cancer",
        "/projects/demo/models/breast-cancer/versions/1",
        "/projects/demo/endpoints",
        "/projects/demo/endpoints/breast-cancer",
        f"/projects/demo/tables/{shown['name']}/snapshots/{shown['snapshot_id']}",
        f"/predictions/{demo['prediction_id']}",
    ]


def shown(opened: Any, address: str) -> Page:
    """Open a page and wait until it is whole."""
    page: Page = opened.go(address)
    page.wait_for_load_state("load")
    if page.locator("#preview").count():
        page.wait_for_selector("#preview table")
    return page


def test_axe_finds_nothing_by_day_and_in_the_dark(tab: Callable[..., Any], addresses: list[str]) -> None:
    opened = tab()
    found: dict[str, list[str]] = {}
    for address in addresses:
        page = shown(opened, address)
        found[address] = axe(page)
        page.emulate_media(color_scheme="dark")
        assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
        found[address] += axe(page, "color-contrast")
        page.emulate_media(color_scheme="light")
    assert {address: problems for address, problems in found.items() if problems} == {}
    opened.troubles = [t for t in opened.troubles if "404" not in t]  # of the page that is not there


def test_an_endpoint_is_tried_from_its_page_and_news_leave_what_was_filled_in(
    tab: Callable[..., Any], demo: dict[str, Any]
) -> None:
    page: Page = tab().live("/projects/demo/endpoints/breast-cancer")
    first = page.locator("#try input").first
    first.fill("17.25")
    page.locator("#try button").click()
    expect(page.locator("#answer dd")).to_have_text(re.compile(r"\d"), timeout=60_000)
    expect(page.locator("#answer a")).to_have_attribute("href", re.compile("/predictions/pr_"))
    # The page's news, which come every few seconds, say that there was one more request.
    expect(page.locator("#rows-answering")).to_contain_text("Awake", timeout=60_000)
    expect(first).to_have_value("17.25")
    assert page.locator("#answer dd").count() == 1
    first.fill("none")
    page.locator("#try button").click()
    expect(page.locator("#answer")).to_contain_text("A number is missing")


def test_every_page_fits_a_phone(tab: Callable[..., Any], addresses: list[str]) -> None:
    opened = tab(phone=True)
    found: dict[str, list[str]] = {}
    for address in addresses:
        page = shown(opened, address)
        found[address] = axe(page, "target-size", "scrollable-region-focusable", "meta-viewport")
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            found[address].append("the page scrolls sideways")
    assert {address: problems for address, problems in found.items() if problems} == {}
    opened.troubles = [t for t in opened.troubles if "404" not in t]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_with_dialogs_open(
    tab: Callable[..., Any], world: Any, demo: dict[str, Any], dark: bool
) -> None:
    opened = tab(dark=dark)
    page = opened.live(f"{world.base}/runs")
    page.keyboard.press("Control+k")
    page.keyboard.type("net-0")
    page.wait_for_selector("#found li:has-text('net-0')")
    assert axe(page) == []
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.wait_for_selector("#help[open]")
    assert axe(page) == []
    page.keyboard.press("Escape")
    page.locator("details.switch summary").click()
    assert axe(page) == []
    page = opened.go("/projects/demo/models/breast-cancer/versions/1")
    page.get_by_role("link", name="Where it comes from").click()
    page.wait_for_selector("#panel[open] .chain")
    assert axe(page) == []


def test_the_menu_of_a_phone_opens_and_closes(tab: Callable[..., Any], world: Any) -> None:
    page = tab(phone=True).go(f"{world.base}/jobs")
    assert not page.locator("#menu").is_visible()
    page.get_by_role("link", name="Menu", exact=True).click()
    assert page.locator("#menu").is_visible()
    assert axe(page) == []
    page.get_by_role("link", name="Close menu").click()
    assert not page.locator("#menu").is_visible()
    page.get_by_role("link", name="Menu", exact=True).click()
    page.get_by_role("link", name="Runs").click()
    page.wait_for_url("**/runs")


def test_hostile_names_logs_and_rows_run_nothing(
    tab: Callable[..., Any], world: Any, addresses: list[str]
) -> None:
    opened = tab()
    for address in (a for a in addresses[2:] if a.startswith(world.base)):
        page = shown(opened, address)
        if page.locator("#log").count():
            expect(page.locator("#log")).not_to_be_empty()
        assert page.evaluate("window.hacked") is None, address
        assert page.locator("img").count() == 0, address
    page = opened.live(f"{world.base}/runs")
    page.keyboard.press("Control+k")
    page.keyboard.type("onerror")
    page.wait_for_selector("#found li:has-text('<img')")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0


def test_the_policy_stops_an_inline_script_that_got_in_anyhow(tab: Callable[..., Any], world: Any) -> None:
    opened = tab()
    page = opened.go(f"{world.base}/jobs")
    page.evaluate(_INJECT)
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None
    assert any("Content Security Policy" in trouble for trouble in opened.troubles)
    opened.troubles.clear()


def test_without_javascript_pages_can_be_read(tab: Callable[..., Any], world: Any) -> None:
    page = tab(java_script_enabled=False).go(f"{world.base}/jobs?q=quick")
    assert page.locator("tbody tr").count() == 1
    page.locator("tbody tr a").first.click()
    page.wait_for_url(f"**/jobs/{world.done}")
    assert "quick" in page.locator("h1").inner_text()


def test_a_prediction_is_explained_down_to_the_data(tab: Callable[..., Any], demo: dict[str, Any]) -> None:
    page = tab().go(f"/predictions/{demo['prediction_id']}")
    kinds = [kind.lower() for kind in page.locator(".chain .kind").all_inner_texts()]
    assert kinds[:7] == ["prediction", "endpoint", "model version", "run", "job", "code", "environment"]
    assert "table snapshot" in kinds
    assert set(page.locator(".chain > li > .title .state").all_inner_texts()) == {"Verified"}
    page.locator(".chain li:has(.kind:text-is('Table snapshot')) a.chip").click()
    page.wait_for_selector(".verdict .state.done")
    assert page.locator("tbody .state:not(.done)").count() == 0
    page.go_back()
    page.locator(".chain li:has(.kind:text-is('Run')) a.chip").click()
    page.wait_for_url("**/projects/demo/runs/*")
    page.wait_for_selector("[data-points]")


def test_an_address_that_mlflow_prints_leads_to_the_run(tab: Callable[..., Any], world: Any) -> None:
    page = tab().go(f"/#/experiments/0/runs/{world.runs[3]}")
    page.wait_for_url(f"**{world.base}/runs/{world.runs[3]}")
    assert page.locator("h1").inner_text() == "net-03"
