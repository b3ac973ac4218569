"""Signing in and out, in a real browser."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Browser

from platform_server import PlatformServer

pytestmark = pytest.mark.browser


def new_link(server: PlatformServer) -> str:
    return str(server.json("login-link")["url"])


def test_a_link_signs_in_once(chromium: Browser, server: PlatformServer) -> None:
    address = new_link(server)
    context = chromium.new_context()
    page = context.new_page()
    page.goto(address)
    assert page.url == f"{server.url}/projects/default"
    assert page.title() == "Overview · default · Stratal"
    (cookie,) = [c for c in context.cookies() if c["name"] == "stratal_session"]
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Lax"
    assert cookie["domain"] == "127.0.0.1"
    assert page.evaluate("document.cookie") == ""
    page.goto(address)  # by a bookmark: still signed in, so it goes on
    assert page.url == f"{server.url}/projects/default"
    context.close()
    stranger = chromium.new_context().new_page()
    stranger.goto(address)
    assert stranger.locator("h1").inner_text() == "This link was used or has expired"
    stranger.goto(f"{server.url}/projects/default/jobs")
    assert stranger.locator("h1").inner_text() == "You are not signed in"
    stranger.context.close()


def test_after_signing_in_one_is_where_one_wanted_to_be(chromium: Browser, server: PlatformServer) -> None:
    page = chromium.new_context().new_page()
    page.goto(new_link(server) + "&next=/projects/default/runs?q=net")
    assert page.url == f"{server.url}/projects/default/runs?q=net"
    page.context.close()


def test_signing_out_ends_the_session_everywhere(chromium: Browser, server: PlatformServer) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.goto(new_link(server))
    state = context.storage_state()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/login")
    assert not [c for c in context.cookies() if c["name"] == "stratal_session"]
    context.close()
    thief = chromium.new_context(storage_state=state).new_page()
    thief.goto(f"{server.url}/projects/default/jobs")
    assert "/login" in thief.url
    thief.context.close()


def test_a_page_left_open_says_that_one_is_signed_out(chromium: Browser, server: PlatformServer) -> None:
    context = chromium.new_context()
    first, second = context.new_page(), context.new_page()
    first.goto(new_link(server))
    first.wait_for_selector("#live[data-state=live]")
    second.goto(f"{server.url}/projects/default")
    second.get_by_role("button", name="Sign out").click()
    second.wait_for_url("**/login")
    first.locator("#live").click()  # pause, and go on
    first.locator("#live").click()
    first.wait_for_selector("#live[data-state=out]")
    assert first.locator("#live").inner_text() == "Signed out"
    context.close()


def test_the_project_switcher_leads_to_the_same_place_of_another_project(
    tab: Callable[..., object], server: PlatformServer, world: object
) -> None:
    other = server.project()
    page = tab().go("/projects/default/jobs")  # type: ignore[attr-defined]
    page.locator(".switch summary").click()
    page.get_by_role("link", name=other, exact=True).click()
    page.wait_for_url(f"**/projects/{other}/jobs")
    assert page.locator("h1").inner_text() == "Jobs"
