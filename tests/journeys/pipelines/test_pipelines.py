"""A pipeline as its users run it: cached, checked, backfilled, deployed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from platform_server import PlatformServer, wait_until

TRIPS = """
import stratal

LOW = 0

@stratal.step(checks=[
    stratal.not_null("id"), stratal.unique("id"), stratal.between("km", 0, 100),
    stratal.matches("day", r"\\d{4}-\\d\\d-\\d\\d"), stratal.rows_change(0.5), stratal.fresh("at", 24 * 365 * 200),
    stratal.sql_check("select * from {table} where km > 3", name="long").warn(),
])
def ingest(day: str, low: float) -> stratal.Table:
    rows = [{"id": i, "day": day, "km": low + i / 2, "at": "2024-01-01 10:00:00"} for i in range(10)]
    return stratal.table("raw.trips").replace(rows)

@stratal.step(cpus=0.5, memory="256MiB")
def big(trips: stratal.Table) -> float:
    return max(row["km"] for row in trips.rows())

@stratal.step
def note(i: int) -> int:
    stratal.table("raw.log").append([{"i": i}])
    return i

daily = stratal.sql_step(
    "select day, sum(km) km from {{ ref('raw.trips') }} where km >= {{ least }} group by day",
    into="mart.daily", mode="upsert", keys=["day"], checks=[stratal.refers("day", "raw.trips", "day")],
)
shout = stratal.shell_step("echo $ARG_WORD | tr a-z A-Z", name="shout")

@stratal.pipeline
def nightly(day: str = "2024-01-01", low: float = 0):
    trips = ingest(day, low)
    daily(trips, least=1)
    notes = note.map([1, 2, 3])
    top = big(trips)
    return {"top": top, "notes": notes, "word": shout(word="done") if top.result() < 50 else None}

@stratal.step
def made(day: str) -> stratal.Table:
    if day in ("2024-01-02", "2024-01-04") and not stratal.sql("select 1 from ref.allowed"):
        raise ValueError(f"no data for {day}")
    return stratal.table("part.days").overwrite([{"day": day, "n": int(day[-2:])}], where={"day": day})

@stratal.step
def counted(table: stratal.Table, day: str) -> int:
    return len(table.rows())

@stratal.pipeline
def days(day: str):
    counted(made(day), day)

if __name__ == "__main__":
    print(nightly())
"""


CHANCE = """
import random, stratal

@stratal.step
def drawn() -> float:
    found = random.random()
    stratal.table("raw.drawn").replace([{"x": found}])
    return found

@stratal.step
def known(x: float) -> int:
    return len(stratal.table("raw.drawn").rows())

@stratal.step(replay=False, cache=False)
def told(n: int) -> int:
    print("told")
    return n

@stratal.pipeline
def chance():
    return told(known(drawn()))
"""


MODELS = {
    "staging/clean.sql": "select id, zone, km from {{ source('src', 'trips') }} where km > {{ least }}",
    "mart/zones.sql": "-- check: unique(\"zone\")\nselect zone, sum(km) as total from {{ ref('clean') }} group by zone",
    "mart/zones.test.sql": "select * from {{ this }} where total < 0",
}


STUDY = """
import stratal

@stratal.step
def trips(n: int) -> stratal.Table:
    return stratal.table("study.trips").replace([{"day": f"d{i}", "km": float(i)} for i in range(n)])

study = stratal.notebook_step("study.ipynb", requirements=["matplotlib"])

@stratal.pipeline
def studied(least: int):
    study(table=trips(5), least=least)
"""
CELLS = [
    "table, least = None, 0",
    "import stratal\nrows = [r for r in stratal.table(table).rows() if r['km'] > least]"
    "\nprint('over', least, ':', len(rows))",
    "import matplotlib.pyplot as plt\nplt.bar([r['day'] for r in rows], [r['km'] for r in rows]);",
]


SHOP = {
    "dbt_project.yml": "name: shop\nprofile: shop\nseeds: {shop: {+schema: ref}}\n",
    "seeds/names.csv": "id,name\n1,north\n2,south\n",
    "models/sources.yml": "sources: [{name: raw, schema: shop_raw, tables: [{name: orders}]}]\n",
    "models/clean.sql": "select id, zone, price from {{ source('raw', 'orders') }} where price > {{ var('least', 0) }}",
    "models/zones.sql": "{{ config(materialized='table') }} select name, sum(price) as total from {{ ref('clean') }} c "
    "join {{ ref('names') }} n on n.id = c.zone group by name",
    "models/log.sql": "{{ config(materialized='incremental') }} select id, now() as seen from {{ ref('clean') }} "
    "{% if is_incremental() %} where id > (select max(id) from {{ this }}) {% endif %}",
    "models/tests.yml": "models: [{name: clean, columns: [{name: id, data_tests: [unique]}]}]\n",
    "tests/cheap.sql": "{{ config(severity='warn') }} select * from {{ ref('clean') }} where price < 2",
}


class Shell:
    """A folder with the file, and `stratal` called in it."""

    def __init__(self, server: PlatformServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.project = server.project()
        (folder / "trips.py").write_text(TRIPS)

    def __call__(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "stratal.cli.main", *words],
            env=self.server.environ(STRATAL_PROJECT=self.project),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=1800,
        )

    def json(self, *words: str, code: int = 0) -> dict[str, Any]:
        done = self(*words, "--json")
        assert done.returncode == code, done.stdout + done.stderr
        answer = json.loads(done.stdout)
        assert isinstance(answer, dict)
        return answer

    def sql(self, text: str) -> list[list[Any]]:
        return list(self.json("sql", text)["rows"])


@pytest.fixture(scope="module")
def shell(server: PlatformServer, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(server, tmp_path_factory.mktemp("code"))


def states(run: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["state"] for step in run["steps"]}


def test_a_run_its_cache_and_what_a_change_reruns(shell: Shell) -> None:
    first = shell.json("pipeline", "run", "trips.py:nightly")
    assert set(states(first).values()) == {"succeeded"}
    assert first["output"] == {"top": 4.5, "notes": [1, 2, 3], "word": "DONE"}
    assert shell.sql("select * from mart.daily") == [["2024-01-01", 22.0]]
    assert sorted(row[0] for row in shell.sql("select i from raw.log")) == [1, 2, 3], (
        "appended at once, each once"
    )
    steps = {step["name"]: step for step in first["steps"]}
    assert [check["check"] for check in steps["ingest"]["checks"] if not check["passed"]] == ["long"]
    assert steps["big"]["job"] is not None
    assert steps["ingest"]["job"] is None
    assert [read["name"] for read in steps["mart_daily"]["reads"]] == ["raw.trips"]

    again = shell.json("pipeline", "run", "trips.py:nightly")
    assert set(states(again).values()) == {"cached"}
    assert again["output"] == first["output"]

    text = TRIPS.replace("return max(row", "return 1 + max(row")
    (shell.folder / "trips.py").write_text("# a remark\n" + text)
    changed = shell.json("pipeline", "run", "trips.py:nightly")
    assert {name: state for name, state in states(changed).items() if state != "cached"} == {
        "big": "succeeded"
    }
    assert {step["name"]: step["reason"] for step in changed["steps"]}["big"] == "its code changed"
    shown = shell("pipeline", "show", str(changed["id"])).stdout
    assert "its code changed" in shown
    assert "Check long of raw.trips warns" not in shown, "taken from before, not checked again"


def test_a_replay_does_every_step_again_and_shows_nothing_of_it(shell: Shell) -> None:
    (shell.folder / "trips.py").write_text(TRIPS)
    run = shell.json("pipeline", "run", "trips.py:nightly")
    before = shell.sql("select count(*), sum(i) from raw.log")
    told = shell.json("replay", str(run["id"]))
    assert (told["verdict"], told["differing"], told["altered"]) == ("reproduced", [], [])
    assert {one["name"] for one in told["results"] if one["kind"] == "table"} == {
        "raw.trips",
        "raw.log",
        "mart.daily",
    }
    assert {one["of"] for one in told["results"]} >= {"ingest", "big", "note[2]", "shout"}
    assert shell.sql("select count(*), sum(i) from raw.log") == before
    again = shell.json("pipeline", "run", "trips.py:nightly")
    assert set(states(again).values()) == {"cached"}, "and nothing is taken from it"


def test_a_replay_names_what_comes_out_differently(shell: Shell) -> None:
    (shell.folder / "chance.py").write_text(CHANCE)
    run = shell.json("pipeline", "run", "chance.py")
    told = shell.json("replay", str(run["id"]), code=1)
    assert told["verdict"] == "differs"
    assert {(one["kind"], one["name"]) for one in told["differing"]} == {
        ("value", "drawn"),
        ("table", "raw.drawn"),
    }
    steps = states(shell.json("pipeline", "show", str(told["repeated_by"])))
    assert steps == {"drawn": "succeeded", "known": "succeeded", "told": "cached"}
    assert shell.json("replay", str(run["id"]), "--ignore", "*drawn")["verdict"] == "reproduced"
    assert "only runs that succeeded are replayed" in shell("replay", str(told["repeated_by"])).stderr


def test_a_folder_of_models_its_lineage_and_what_came_of_its_sources(shell: Shell) -> None:
    for name, text in MODELS.items():
        (shell.folder / "models" / name).parent.mkdir(parents=True, exist_ok=True)
        (shell.folder / "models" / name).write_text(text)
    shell.sql(
        "create or replace table src.trips as select i as id, i % 2 as zone, i * 1.5 as km from range(6) t(i)"
    )
    run = shell.json("transform", "models", "--set", "least=1")
    assert states(run) == {"staging_clean": "succeeded", "mart_zones": "succeeded"}
    assert sorted(shell.sql("select * from mart.zones")) == [[0, 9.0], [1, 13.5]]
    assert states(shell.json("transform", "models", "--set", "least=1")) == {
        "staging_clean": "cached",
        "mart_zones": "cached",
    }
    shell.sql("insert into src.trips values (9, 7, -1)")
    again = shell.json("transform", "models", "--set", "least=-5", code=1)
    failed = {step["name"]: step["reason"] for step in again["steps"] if step["state"] == "failed"}
    assert "check zones.test.sql of mart.zones failed" in failed["mart_zones"], (
        "and the table stays as it was"
    )
    assert sorted(shell.sql("select * from mart.zones")) == [[0, 9.0], [1, 13.5]]

    told = shell.json("tables", "lineage", "mart.zones")
    columns = {one["name"]: (one["sources"], one["roots"]) for one in told["columns"]}
    assert columns["total"][0] == [{"table": "staging.clean", "column": "km"}]
    assert columns["total"][1] == [{"table": "src.trips", "column": "km"}]
    events = shell("pipeline", "openlineage", str(run["id"])).stdout.splitlines()
    _check_openlineage([json.loads(line) for line in events])

    came = shell.json("impact", "src.trips")
    assert {table["name"] for table in came["tables"]} >= {"staging.clean", "mart.zones"}
    assert {step["name"] for step in came["steps"]} == {"staging_clean", "mart_zones"}
    assert "There is no table 'src.nothing'" in shell("impact", "src.nothing").stderr


def _check_openlineage(events: list[dict[str, Any]]) -> None:
    """With the official client's own types."""
    from openlineage.client import event_v2, serde

    kinds = [(event["eventType"], event["job"]["name"]) for event in events]
    assert kinds[0] == ("START", "transform")
    assert kinds[-1] == ("COMPLETE", "transform")
    for told in events:
        run = event_v2.Run(told["run"]["runId"], told["run"]["facets"])
        job = event_v2.Job(told["job"]["namespace"], told["job"]["name"], told["job"]["facets"])
        made = event_v2.RunEvent(
            eventTime=told["eventTime"],
            producer=told["producer"],
            eventType=event_v2.RunState(told["eventType"]),
            run=run,
            job=job,
            inputs=[
                event_v2.InputDataset(one["namespace"], one["name"], one["facets"]) for one in told["inputs"]
            ],
            outputs=[
                event_v2.OutputDataset(one["namespace"], one["name"], one["facets"])
                for one in told["outputs"]
            ],
        )
        assert json.loads(serde.Serde.to_json(made))["run"]["runId"] == told["run"]["runId"]
    end = next(
        event for event in events if event["job"]["name"] == "transform.mart_zones" and event["outputs"]
    )
    assert [one["name"] for one in end["inputs"]] == ["staging.clean"]
    fields = end["outputs"][0]["facets"]["columnLineage"]["fields"]
    assert fields["total"]["inputFields"][0]["field"] == "km"


def test_a_failed_check_leaves_the_table_as_it_was(shell: Shell) -> None:
    (shell.folder / "trips.py").write_text(TRIPS)
    before = shell.sql("select count(*), max(km) from raw.trips")
    failed = shell.json("pipeline", "run", "trips.py:nightly", "--set", "low=98", code=1)
    got = states(failed)
    assert (got["ingest"], got["mart_daily"], got["note[0]"]) == ("failed", "skipped", "cached")
    assert "check between(km, 0, 100) of raw.trips failed: 5 rows" in failed["reason"] + str(failed["steps"])
    assert shell.sql("select count(*), max(km) from raw.trips") == before
    log = shell.json("pipeline", "logs", str(failed["id"]), "ingest")
    assert "check between(km, 0, 100) of raw.trips failed" in log["log"]


@pytest.mark.parametrize(
    ("last", "number"),
    [("2024-01-05", 5), pytest.param("2024-12-30", 365, marks=pytest.mark.soak)],
)
def test_a_backfill_names_what_failed_and_retry_makes_only_that(
    shell: Shell, last: str, number: int, server: PlatformServer
) -> None:
    shell.project = server.project()
    created = shell.json("sql", "create table ref.allowed as select 1 as x where false")
    assert created["rows"] == [[0]]
    run = shell.json("pipeline", "backfill", "trips.py:days", "--from", "2024-01-01", "--to", last, code=1)
    assert len(run["partitions"]) == number
    assert [p["name"] for p in run["partitions"] if p["state"] != "succeeded"] == ["2024-01-02", "2024-01-04"]
    assert run["reason"] == f"2 of {number} partitions failed: 2024-01-02, 2024-01-04"
    assert shell.sql("select count(*), count(distinct day) from part.days") == [[number - 2, number - 2]]
    shell.json("sql", "insert into ref.allowed select 1")
    retried = shell.json("pipeline", "retry", str(run["id"]))
    assert retried["state"] == "succeeded"
    assert shell.sql("select count(*), count(distinct day) from part.days") == [[number, number]]
    began = {step["name"]: step["attempt"] for step in run["steps"]}
    ended = {step["name"]: step["attempt"] for step in retried["steps"]}
    assert {name.rpartition("@")[2] for name in ended if ended[name] != began[name]} == {
        "2024-01-02",
        "2024-01-04",
    }


def test_what_is_deployed_runs_by_name_and_by_what_arrives(shell: Shell) -> None:
    made = shell.json(
        "pipeline", "deploy", "trips.py:days", "--set", "day=2024-02-01", "--on-table", "raw.in"
    )
    assert (made["version"], made["on_table"], made["next_at"]) == (1, "raw.in", None)
    assert shell.json("pipeline", "trigger", "days")["state"] == "succeeded"
    shell.json("sql", "create table raw.in as select 1 as x")

    def runs() -> list[dict[str, Any]]:
        return [r for r in shell.json("pipeline", "ls")["runs"] if r["trigger"].startswith("snapshot ")]

    (run,) = wait_until(runs, seconds=60)
    wait_until(lambda: shell.json("pipeline", "show", str(run["id"]))["state"] == "succeeded", seconds=120)
    shell("pipeline", "undeploy", "days")
    assert shell.json("pipeline", "deployed")["pipelines"] == []


@pytest.mark.soak
def test_a_notebook_is_executed_and_its_page_kept_with_its_plots(shell: Shell) -> None:
    """For the soak because it builds an environment: papermill, a kernel, nbconvert and what the notebook plots with."""
    cells: list[dict[str, Any]] = [
        {
            "id": f"c{number}", "cell_type": "code", "source": text, "outputs": [], "execution_count": None,
            "metadata": {"tags": ["parameters"]} if number == 0 else {},
        }
        for number, text in enumerate(CELLS)
    ]  # fmt: skip
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (shell.folder / "study.ipynb").write_text(json.dumps(notebook))
    (shell.folder / "study.py").write_text(STUDY)
    first = shell.json("pipeline", "run", "study.py", "--set", "least=2")
    assert states(first) == {"trips": "succeeded", "study": "succeeded"}
    read = {read["name"] for step in first["steps"] if step["name"] == "study" for read in step["reads"]}
    assert read == {"study.trips"}, "the kernel reads under the step's own credential"
    page = shell("pipeline", "report", str(first["id"]), "study").stdout
    assert "over 2 : 2" in page
    assert 'src="data:image/png;base64,' in page
    assert "<script" not in page
    second = shell.json("pipeline", "run", "study.py", "--set", "least=2")
    assert states(second) == {"trips": "cached", "study": "cached"}
    (shell.folder / "study.ipynb").write_text(json.dumps(notebook).replace("over", "above"))
    third = shell.json("pipeline", "run", "study.py", "--set", "least=3")
    assert "above 3 : 1" in shell("pipeline", "report", str(third["id"]), "study").stdout
    failed = shell.json("pipeline", "run", "study.py", "--set", "least=none", code=1)
    assert "TypeError" in shell("pipeline", "logs", str(failed["id"]), "study").stdout


@pytest.mark.soak
def test_a_project_of_dbt_is_a_guest(shell: Shell) -> None:
    """With the real dbt: for the soak because it builds an environment with it."""
    for name, text in SHOP.items():
        path = shell.folder / "shop" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    shell.sql(
        "create table shop_raw.orders as select * from (values (1, 1, 3.5), (2, 1, 1.5), (3, 2, 8.0)) t(id, zone, price)"
    )
    first = shell.json("transform", "shop")
    assert first["state"] == "succeeded", first
    (step,) = first["steps"]
    written = {write["table"] for write in step["writes"]}
    assert written == {"shop.clean", "shop.zones", "shop.log", "shop_ref.names"}
    assert [read["name"] for read in step["reads"]] == ["shop_raw.orders"], "under the step's own credential"
    checks = {(check["check"], check["table"]): check["passed"] for check in step["checks"]}
    assert checks == {("unique_clean_id", "shop.clean"): True, ("cheap", "shop.clean"): False}
    assert shell.sql("select name, total::double from shop.zones order by name") == [
        ["north", 5.0],
        ["south", 8.0],
    ]
    models = {one["name"]: one for one in step["models"]}
    assert {name: (one["kind"], one["state"], one["table"]) for name, one in models.items()} == {
        "names": ("seed", "succeeded", "shop_ref.names"),
        "clean": ("model", "succeeded", "shop.clean"),
        "zones": ("model", "succeeded", "shop.zones"),
        "log": ("model", "succeeded", "shop.log"),
    }
    assert models["zones"]["reads"] == ["shop.clean", "shop_ref.names"]
    assert models["clean"]["reads"] == ["shop_raw.orders"]
    told = shell.json("tables", "lineage", "shop.zones")
    columns = {one["name"]: one["roots"] for one in told["columns"]}
    assert columns["total"] == [{"table": "shop_raw.orders", "column": "price"}], (
        "through the models' queries"
    )
    lines = shell("pipeline", "openlineage", str(first["id"])).stdout.splitlines()
    events = {event["job"]["name"]: event for event in map(json.loads, lines)}
    (zones,) = [event for name, event in events.items() if name.endswith(".zones")]
    assert {one["name"] for one in zones["inputs"]} == {"shop.clean", "shop_ref.names"}
    assert all(one["facets"]["version"]["datasetVersion"].isdigit() for one in zones["inputs"])
    fields = zones["outputs"][0]["facets"]["columnLineage"]["fields"]
    assert fields["total"]["inputFields"] == [
        {"namespace": zones["job"]["namespace"], "name": "shop.clean", "field": "price"}
    ]
    seen = shell.sql("select id, seen from shop.log order by id")
    assert states(shell.json("transform", "shop")) == {"shop": "cached"}

    shell.sql("insert into shop_raw.orders values (4, 2, 7.0)")
    second = shell.json("transform", "shop", "--set", "least=2")
    assert second["state"] == "succeeded", second
    assert shell.sql("select sum(total)::double from shop.zones") == [[18.5]]
    assert shell.sql("select id, seen from shop.log order by id")[:3] == seen, "an incremental model goes on"

    shell.sql("insert into shop_raw.orders values (4, 2, 7.0)")
    third = shell.json("transform", "shop", "--set", "least=2", code=1)
    assert "unique_clean_id failed" in third["steps"][0]["reason"]
    assert shell.sql("select sum(total)::double from shop.zones") == [[18.5]], (
        "a failed test holds the tables back"
    )
    assert {one["state"] for one in third["steps"][0]["models"]} >= {"succeeded"}, (
        "also of a step that failed"
    )
    came = shell.json("impact", "shop_raw.orders")
    assert {table["name"] for table in came["tables"]} == written - {"shop_ref.names"}, "model by model"
    assert {table["name"] for table in shell.json("impact", "shop_ref.names")["tables"]} == {"shop.zones"}
    shell.sql(
        "create or replace table shop_raw.orders as select 1 as id, 1 as zone, 3.5 as price"
    )  # so that its test holds zones up no more
    (shell.folder / "shop" / "models" / "zones.sql").write_text("select nothing from {{ ref('clean') }}")
    broken = shell.json("transform", "shop", code=1)
    states_of = {one["name"]: one["state"] for one in broken["steps"][0]["models"]}
    assert (states_of["clean"], states_of["zones"]) == ("succeeded", "failed")
    assert "nothing" in next(one["words"] for one in broken["steps"][0]["models"] if one["name"] == "zones")


def test_mistakes_are_told(shell: Shell) -> None:
    assert "There is no Python file" in shell("pipeline", "run", "none.py").stderr
    several = shell.json("pipeline", "run", "trips.py", code=1)
    assert "several pipelines (days, nightly)" in several["reason"]
    unknown = shell.json("pipeline", "run", "trips.py:nightly", "--set", "x=1", code=1)
    assert "nightly() has no parameter x; it has day, low." in unknown["reason"]
    assert shell("pipeline", "show", "999999").returncode == 6
    assert "Say which partitions" in shell("pipeline", "backfill", "trips.py:days").stderr


def test_the_same_file_runs_without_a_server(shell: Shell) -> None:
    done = subprocess.run(
        [sys.executable, "trips.py"],
        cwd=shell.folder,
        env={**shell.server.environ(), "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "'top': 4.5" in done.stdout, done.stderr
    assert (shell.folder / ".stratal-local" / "tables" / "mart.daily.jsonl").is_file()
