"""The console against a stand-in for the native API: signing in, refusals, headers, hostile names."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console_stand_in import BASE, HOSTILE, Browser, Native, answers, every_page
from stratal.console.pages.jobs import gathered
from stratal.console.pages.pipelines import graph, together
from stratal.console.security import safe_next

pytestmark = pytest.mark.fast


def test_a_link_signs_in_once_and_leaves_no_token_behind() -> None:
    browser = Browser()
    answer = browser.get("/login?token=fresh", cookie=None)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert cookie.startswith("session=good;")
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "path=/" in cookie
    assert "domain" not in cookie
    assert "secure" not in cookie
    assert answer.headers["cache-control"] == "no-store"
    again = browser.get("/login?token=fresh", cookie=None)
    assert again.status_code == 401
    assert "stratal login-link" in again.text
    assert "set-cookie" not in again.headers


def test_under_tls_the_cookie_is_kept_to_tls() -> None:
    assert "Secure" in Browser(secure=True).get("/login?token=fresh", cookie=None).headers["set-cookie"]


@pytest.mark.parametrize(
    "looks_ahead",
    [
        {"sec-purpose": "prefetch;prerender"},
        {"purpose": "prefetch"},
        {"user-agent": "Slackbot-LinkExpanding 1.0"},
    ],
)
def test_a_preview_does_not_spend_the_link(looks_ahead: dict[str, str]) -> None:
    browser = Browser()
    page = browser.get("/login?token=fresh", cookie=None, headers=looks_ahead)
    assert page.status_code == 200
    assert "set-cookie" not in page.headers
    assert browser.ask("HEAD", "/login?token=fresh", cookie=None).status_code == 200
    assert browser.links == {"fresh"}
    same = {"sec-fetch-site": "same-origin"}
    done = browser.ask(
        "POST", "/login", cookie=None, data={"token": "fresh", "next": "/projects/other"}, headers=same
    )
    assert done.headers["location"] == "/projects/other"
    assert "session=good" in done.headers["set-cookie"]


def test_a_link_followed_again_by_somebody_signed_in_goes_on() -> None:
    answer = Browser().get("/login?token=spent&next=/projects/other")
    assert (answer.status_code, answer.headers["location"]) == (303, "/projects/other")


@pytest.mark.parametrize("path", ["/login", "/logout"])
def test_another_site_cannot_sign_anybody_in_or_out(path: str) -> None:
    browser = Browser()
    for headers in ({"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}):
        answer = browser.ask("POST", path, data={"token": "fresh"}, headers=headers)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
    assert browser.links == {"fresh"}
    assert not browser.ended


def test_signing_out_ends_the_session_on_the_server() -> None:
    browser = Browser()
    answer = browser.ask("POST", "/logout", headers={"sec-fetch-site": "same-origin"})
    assert browser.ended == ["good"]
    assert answer.headers["location"] == "/login"
    assert 'session=""' in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "javascript:alert(1)",
        "/login?token=x",
        "",
        " /",
        "/\r\nSet-Cookie: a=b",
    ],
)
def test_no_redirect_leaves_the_console(target: str) -> None:
    answer = Browser().ask("GET", "/login", params={"next": target})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


@given(st.text())
def test_next_is_always_a_path_of_ours(target: str) -> None:
    found = safe_next(target)
    assert found.startswith("/")
    assert not found.startswith("//")
    assert not re.search(r"[\x00-\x20\x7f\\]", found)


def test_somebody_not_signed_in_is_told_how_and_comes_back() -> None:
    browser = Browser()
    answer = browser.get("/projects/default/jobs?q=a b", cookie=None)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?next=%2Fprojects%2Fdefault%2Fjobs%3Fq%3Da%2520b"
    page = browser.get(answer.headers["location"], cookie=None)
    assert page.status_code == 200
    assert "stratal login-link" in page.text


def test_every_answer_carries_the_headers_that_protect_it() -> None:
    browser = Browser()
    for path in ("/login", "/projects/default/why", "/nope", "/static/x/nope.js", "/projects/nope"):
        headers = browser.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"


def test_static_files_are_kept_for_ever_under_their_hash_and_revalidated_elsewhere() -> None:
    browser = Browser()
    page = browser.get("/login", cookie=None).text
    found = re.search(r'href="(/static/[0-9a-f]{12}/app\.css)"', page)
    assert found is not None
    answer = browser.get(found[1])
    assert answer.headers["content-type"].startswith("text/css")
    assert "immutable" in answer.headers["cache-control"]
    assert browser.get(found[1], headers={"if-none-match": answer.headers["etag"]}).status_code == 304
    assert browser.get("/static/000000000000/app.css").headers["cache-control"] == "no-cache"
    for bad in (
        "/static/x/../../app.py",
        "/static/x/%2e%2e/app.py",
        "/static/x/..%2fapp.py",
        "/static/x/manifest",
    ):
        assert browser.get(bad).status_code == 404


def test_pages_are_compressed_and_never_stored() -> None:
    answer = Browser().get("/projects/default/why", headers={"accept-encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["cache-control"] == "no-store"


def test_what_is_not_there_is_a_page_for_people_and_json_for_programs() -> None:
    browser = Browser()
    for path in ("/nope", "/projects/nobody", "/projects/default/jobs/99", "/projects/default/jobs/%00"):
        page = browser.get(path)
        assert page.status_code == 404, path
        assert "<h1>Not found</h1>" in page.text
        program = browser.get(path, headers={"accept": "*/*"})
        assert program.status_code == 404
        assert program.json()["error"]["message"]


@pytest.fixture(scope="module")
def hostile() -> Browser:
    return Browser(Native(answers(HOSTILE)))


@pytest.mark.parametrize("path", every_page(HOSTILE))
def test_hostile_names_stay_text_everywhere(hostile: Browser, path: str) -> None:
    answer = hostile.get(path)
    assert answer.status_code == 200
    assert "cannot be shown" not in answer.text
    assert "<img src=x" not in answer.text
    assert "{{7*7}}" in answer.text, "the name is shown, as it is written"
    for attribute in re.findall(r'="([^"]*)"', answer.text):
        assert "<" not in attribute


def test_documents_are_searched_on_a_page_of_their_own() -> None:
    index = {"name": "handbook", "built_at": "2026-01-01T00:00:00Z", "state": "ready"}
    passage = {
        "document": "s3://docs/a b/leave.md",
        "page": 2,
        "title": "leave.md: Leave",
        "text": "Unused days expire in March.",
        **{"near": 0.61, "words": 3.2, "score": 0.0328, "confidence": 0.7},
    }
    found = {"passages": [passage], "confidence": 0.7, "threshold": 0.5}
    there = {f"{BASE}/indexes": {"indexes": [index]}, f"{BASE}/indexes/handbook/search": found}
    browser = Browser(Native(there))
    page = browser.get("/projects/default/find?index=handbook&q=which+days+expires&limit=5").text
    assert "Unused <mark>days</mark> <mark>expire</mark> in March." in page.replace("\n", "")
    assert "/projects/default/buckets/docs?object=a%20b%2Fleave.md" in page
    for part in (
        "page 2",
        "meaning 0.610",
        "words 3.20",
        "rank 0.0328",
        "confidence 0.70",
        "enough to answer",
    ):
        assert part in page
    assert "Passages are found" in browser.get("/projects/default/find").text
    assert f"POST {BASE}/indexes/handbook/search" in browser.native.asked
    there[f"{BASE}/indexes/handbook/search"] = {**found, "confidence": 0.2, "passages": []}
    empty = Browser(Native(there)).get("/projects/default/find?index=handbook&q=nothing").text
    assert "Nothing was found for “nothing”" in empty
    lost = Browser(Native(there)).get("/projects/default/find?index=gone&q=x")
    assert (lost.status_code, "Nothing was searched." in lost.text) == (200, True)
    none = Browser(Native({f"{BASE}/indexes": {"indexes": []}})).get("/projects/default/find").text
    assert "stratal index create" in none
    building = {"indexes": [{**index, "built_at": None}]}
    assert (
        "is being built" in Browser(Native({f"{BASE}/indexes": building})).get("/projects/default/find").text
    )


def test_one_part_that_is_refused_spoils_nothing_else() -> None:
    answer = Browser(Native({f"{BASE}/jobs": answers("train")[f"{BASE}/jobs"]})).get("/projects/default")
    assert answer.status_code == 200
    assert "7 train" in answer.text
    assert "Runs cannot be shown." in answer.text


def test_search_finds_by_name_and_says_where() -> None:
    told = [
        {"kind": kind, "id": id_, "name": name, "at": "2026-01-01T00:00:00Z"}
        for kind, id_, name in (
            ("job", "7", "ecg"),
            ("experiment", "1", "ecg"),
            ("table", "clinic.ecg", "clinic.ecg"),
            ("bucket", "ecg/..", "ecg/.."),
        )
    ]
    native = Native({f"{BASE}/search": {"found": told}})
    found = Browser(native).get("/projects/default/search?q=ecg").json()["results"]
    assert [(r["kind"], r["href"]) for r in found] == [
        ("job", "/projects/default/jobs/7"),
        ("table", "/projects/default/tables/clinic.ecg"),
        ("bucket", "/projects/default/buckets/ecg%2F.."),
    ]
    assert Browser(native).get("/projects/default/search?q=+").json() == {"results": []}
    assert Browser(native).get("/projects/default/search?q=ecg", cookie=None).status_code in {303, 401}


def test_an_arrays_members_are_one_row_of_the_list() -> None:
    states = ["queued", "succeeded", "failed", "succeeded"]
    members = [{"id": 9 - n, "array": "a3", "state": state} for n, state in enumerate(states)]
    rows = gathered([{"id": 10, "array": None, "state": "running"}, *members, {"id": 5, "state": "failed"}])
    assert [(row["id"], row["state"]) for row in rows] == [(10, "running"), (9, "queued"), (5, "failed")]
    assert rows[1]["members"] == {"queued": 1, "succeeded": 2, "failed": 1}


def test_a_job_says_what_it_waits_for_and_how_its_attempts_went() -> None:
    page = Browser(Native(answers("later"))).get("/projects/default/jobs/7").text
    assert "(2 before it)" in page
    assert "/jobs/7/logs?attempt=1" in page
    assert "2 of 4" in page


def test_an_endpoint_shows_a_request_that_its_model_takes() -> None:
    told = answers("e")
    for interface, shown in (
        (
            {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}]},
            "{&#34;inputs&#34;: {&#34;text&#34;: [&#34;a text&#34;]}}",
        ),
        ({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}]}, "the file in base64"),
        ({"generates": True, "chats": True}, "client.chat.completions.create(model=&#39;e&#39;, messages="),
        ({"generates": True}, "client.completions.create(model=&#39;e&#39;, prompt="),
    ):
        told[f"{BASE}/endpoints/e"]["interface"] = {"columns": None, "outputs": [], "inputs": [], **interface}
        assert shown in Browser(Native(told)).get("/projects/default/endpoints/e").text


def test_a_solution_is_tried_and_reported_where_it_was_run() -> None:
    told = answers("flu")
    page = Browser(Native(told)).get("/projects/default/solutions/s").text
    assert 'data-url="/api/v1/projects/other/endpoints/flu/invocations"' in page
    assert re.search(r'<iframe[^>]* sandbox src="/api/v1/projects/other/solution/report"', page)
    one = told["/api/v1/solutions/s"]
    one["request"], one["files"] = [{"image": "iVBORw==", "other": ""}], {"image": "a.png", "other": "b.png"}
    page = Browser(Native(told)).get("/projects/default/solutions/s").text
    assert page.count('type="file"') == 2, "a picture can be chosen in place of the example's"
    assert page.count('src="data:image/png;base64,iVBORw=="') == 1
    gallery = Browser(Native(told)).get("/projects/default/solutions").text
    assert gallery.count('src="/api/v1/projects/other/solution/picture"') == 1
    assert gallery.count("Not run here yet") == 1
    del told["/api/v1/projects/other/solution"]
    assert "It has not been run here" in Browser(Native(told)).get("/projects/default/solutions/s").text


def test_a_name_and_a_password_sign_in_and_a_code_is_asked_for_when_one_is_needed() -> None:
    browser = Browser()
    same = {"sec-fetch-site": "same-origin"}
    form = {"name": "ada", "password": "wrong", "next": "/projects/other"}
    wrong = browser.ask("POST", "/login", cookie=None, data=form, headers=same)
    assert (wrong.status_code, "set-cookie" in wrong.headers) == (401, False)
    assert "wrong" in wrong.text
    assert HOSTILE not in wrong.text
    form["password"] = "right"
    asked = browser.ask("POST", "/login", cookie=None, data=form, headers=same)
    assert "authenticator app" in asked.text
    assert "set-cookie" not in asked.headers
    done = browser.ask("POST", "/login", cookie=None, data={**form, "code": "123456"}, headers=same)
    assert (done.status_code, done.headers["location"]) == (303, "/projects/other")
    assert "session=good" in done.headers["set-cookie"]
    away = {**form, "code": "123456", "next": "//evil.example"}
    assert browser.ask("POST", "/login", cookie=None, data=away, headers=same).headers["location"] == "/"
    foreign = browser.ask("POST", "/login", cookie=None, data=form, headers={"sec-fetch-site": "cross-site"})
    assert foreign.status_code == 403


def test_an_invitation_is_shown_and_taken_up() -> None:
    browser = Browser()
    same = {"sec-fetch-site": "same-origin"}
    page = browser.get("/invite?token=invited", cookie=None)
    assert page.status_code == 200
    assert 'name="password"' in page.text
    assert HOSTILE not in page.text
    assert browser.get("/invite?token=spent", cookie=None).status_code == 401
    assert "Join as admin" in browser.get("/invite?token=invited").text
    form = {"token": "invited", "name": "taken", "password": "long enough to do"}
    taken = browser.ask("POST", "/invite", cookie=None, data=form, headers=same)
    assert (taken.status_code, "set-cookie" in taken.headers) == (409, False)
    assert 'value="taken"' in taken.text
    done = browser.ask("POST", "/invite", cookie=None, data={**form, "name": "ada"}, headers=same)
    assert (done.status_code, done.headers["location"]) == (303, "/")
    assert "session=good" in done.headers["set-cookie"]
    browser.native.answers["/api/v1/invitations/join"] = {"project": "other"}
    joined = browser.ask("POST", "/invite", data={"token": "invited", "join": "yes"}, headers=same)
    assert joined.headers["location"] == "/projects/other"
    assert (
        browser.ask("POST", "/invite", data=form, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    )


def test_a_command_line_is_said_yes_to_by_whoever_is_signed_in() -> None:
    browser = Browser()
    same = {"sec-fetch-site": "same-origin"}
    assert browser.get("/device?code=BCDF-GHJK", cookie=None).headers["location"].startswith("/login?next=")
    assert browser.get("/device?code=BCDF-GHJK").status_code == 404
    browser.native.answers["/api/v1/device/BCDF-GHJK"] = {"machine": HOSTILE}
    page = browser.get("/device?code=BCDF-GHJK")
    assert "as admin?" in page.text
    assert page.text.count("BCDF-GHJK") == 2
    assert HOSTILE not in page.text
    browser.native.answers["/api/v1/projects/other/device"] = None
    form = {"code": "BCDF-GHJK", "project": "other"}
    assert (
        browser.ask("POST", "/device", data=form, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    )
    done = browser.ask("POST", "/device", data=form, headers=same)
    assert "now has a key of project other" in done.text
    assert "POST /api/v1/projects/other/device" in browser.native.asked


def test_many_calls_of_a_step_are_one_box_and_the_worst_of_them_says_how_it_stands() -> None:
    def step(name: str, of: str, state: str, *after: str) -> dict[str, object]:
        return {"name": name, "step": of, "state": state, "after": list(after), "reason": ""}

    parts = [step(f"part[{i}]", "part", "failed" if i == 70 else "succeeded", "list") for i in range(100)]
    told = [step("list", "list", "cached"), *parts]
    told.append(step("sum", "sum", "skipped", *(str(one["name"]) for one in parts)))
    boxes = together(told)
    assert [(box["name"], box["state"], box["after"]) for box in boxes] == [
        ("list", "cached", []),
        ("part × 100", "failed", ["list"]),
        ("sum", "skipped", ["part × 100"]),
    ]
    assert boxes[1]["reason"] == "99 succeeded, 1 failed"
    drawn = graph(boxes)
    assert len({box.x for box in drawn.boxes}) == 3
