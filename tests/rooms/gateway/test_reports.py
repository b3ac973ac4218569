"""Reports through the doors: read in the project, published by owners, seen by whoever has the link, and not longer."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import update

from stratal.collab.reports.tables import report_links
from wired import Wired

HTML = {"accept": "text/html"}
MLFLOW = "/api/2.0/mlflow"
SOON = 86_400_000


@pytest.fixture(scope="module")
def wired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    made = Wired(tmp_path_factory.mktemp("wired") / "home")
    made.project("lab")
    yield made
    made.close()


@pytest.fixture(scope="module")
def run_id(wired: Wired) -> str:
    key = wired.key("lab", "editor")

    def ask(path: str, body: dict[str, Any]) -> Any:
        answer = wired.ask("POST", f"{MLFLOW}/{path}", key, json=body)
        assert answer.status == 200, answer.body
        return answer.json()

    experiment = ask("experiments/create", {"name": "e"})["experiment_id"]
    made = ask("runs/create", {"experiment_id": experiment, "start_time": 1})["run"]["info"]["run_id"]
    metrics = [{"key": "auc", "value": n / 10, "timestamp": n, "step": n} for n in range(5)]
    ask("runs/log-batch", {"run_id": made, "metrics": metrics})
    return str(made)


def publish(wired: Wired, owner: str, name: str, **more: Any) -> tuple[str, str]:
    body = {"expires_at": int(time.time() * 1000) + SOON, **more}
    answer = wired.ask("POST", f"/api/v1/projects/lab/reports/{name}/links", owner, json=body)
    assert answer.status == 201, answer.body
    url = answer.json()["url"]
    return answer.json()["id"], "/r/" + url.rpartition("/r/")[2]


def test_a_report_is_read_written_and_published(wired: Wired, run_id: str) -> None:
    editor, owner, viewer = (wired.key("lab", role) for role in ("editor", "owner", "viewer"))
    here = "/api/v1/projects/lab/reports"
    text = f"# Progress\n\n<script>bad()</script>\n\n```metrics run={run_id} metric=auc\n```\n"
    assert wired.ask("POST", here, editor, json={"name": "weekly", "text": text}).status == 201
    assert wired.ask("POST", here, editor, json={"name": "weekly", "text": text}).status == 409
    shown = wired.ask("GET", f"{here}/weekly?html=true", viewer).json()
    assert (shown["title"], shown["version"]) == ("Progress", 1)
    assert "<polyline" in shown["html"]
    assert "<script" not in shown["html"]

    snapshot, at = publish(wired, owner, "weekly")
    live, alive = publish(wired, owner, "weekly", live=True)
    for address in (at, alive):
        answer = wired.ask("GET", address, headers=HTML)
        assert (answer.status, b"<polyline" in answer.body) == (200, True)
        assert b"bad()" in answer.body
        assert b"<script" not in answer.body
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src" not in policy
        assert "sandbox" in policy
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "set-cookie" not in answer.headers

    # what is written later is not published with it, also not by a live link
    assert wired.ask("PUT", f"{here}/weekly", editor, json={"text": "# Secret", "version": 1}).status == 200
    late = wired.ask("PUT", f"{here}/weekly", editor, json={"text": "# Other", "version": 1})
    assert (late.status, late.json()["error"]["code"]) == (409, "report_changed")
    for address in (at, alive):
        assert b"Secret" not in wired.ask("GET", address, headers=HTML).body

    # it opens nothing else, and no more than it says
    for trick in (f"{at}/..", f"{at}%2f..%2fapi", f"{at}?x=1;y", "/r/", f"/r/{'a' * 40}", f"{at}%00"):
        assert wired.ask("GET", trick, headers=HTML).status in {200, 404}
        if trick.partition("?")[0] != at:
            assert wired.ask("GET", trick, headers=HTML).status == 404
    assert wired.ask("POST", at, headers=HTML).status in {403, 404, 405}
    assert wired.ask("GET", f"{here}/weekly", at.rpartition("/")[2]).status == 401

    assert wired.ask("DELETE", f"{here}/weekly/links/{snapshot}", editor).status == 403
    assert wired.ask("DELETE", f"{here}/weekly/links/{snapshot}", owner).status == 204
    assert wired.ask("GET", at, headers=HTML).status == 404
    assert [one["id"] for one in wired.ask("GET", f"{here}/weekly/links", viewer).json()["links"]] == [live]
    assert wired.ask("DELETE", f"{here}/weekly", editor).status == 204
    assert wired.ask("GET", alive, headers=HTML).status == 404


def test_a_link_ends_with_its_time_and_with_its_publisher(wired: Wired, run_id: str) -> None:
    owner = wired.key("lab", "owner", name="publisher")
    here = "/api/v1/projects/lab/reports"
    assert wired.ask("POST", here, owner, json={"name": "ending", "text": "# Here"}).status == 201
    for expires in (0, int(time.time() * 1000) + 400 * SOON):
        body = {"expires_at": expires}
        assert wired.ask("POST", f"{here}/ending/links", owner, json=body).status == 400
    id_, at = publish(wired, owner, "ending")
    _, other = publish(wired, owner, "ending")
    assert wired.ask("GET", at).status == 200
    over = update(report_links).where(report_links.c.id == id_).values(expires_at=1)
    wired.platform.database.write_now(lambda c: c.execute(over))
    assert wired.ask("GET", at).status == 404
    assert wired.ask("GET", other).status == 200
    assert wired.ask("DELETE", f"/api/v1/keys/{owner.partition('.')[0]}", wired.admin).status == 204
    assert wired.ask("GET", other).status == 404


def test_a_blocks_refusal_stands_in_its_place(wired: Wired, run_id: str) -> None:
    viewer = wired.key("lab", "viewer")
    text = (
        f"```metrics run={run_id}\n```\n\n```metrics run=none metric=auc\n```\n\n"
        "```lineage table=no.table\n```\n\n```lineage prediction=none\n```\n\nStill here.\n"
    )
    answer = wired.ask("POST", "/api/v1/projects/lab/reports-preview", viewer, json={"text": text})
    assert answer.status == 200, answer.body
    html = answer.json()["html"]
    assert html.count("cannot be shown") == 4
    assert "Still here." in html


def test_a_report_and_a_workspace_are_talked_about(wired: Wired, run_id: str) -> None:
    editor, here = wired.key("lab", "editor"), "/api/v1/projects/lab"
    assert wired.ask("POST", f"{here}/reports", editor, json={"name": "said", "text": "# S"}).status == 201
    for on, of, status in (
        ("report", "said", 201),
        ("report", "none", 404),
        ("workspace", "none", 404),
        ("notebook", "none/study.ipynb", 404),
        ("notebook", "none/../x", 404),
        ("notebook", "", 404),
    ):
        answer = wired.ask("POST", f"{here}/comments", editor, json={"on": on, "of": of, "text": "hm"})
        assert answer.status in {status, 400 if status == 404 else status}, (on, of, answer.body)
