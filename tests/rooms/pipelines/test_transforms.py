"""Folders of SQL models: their order, their words, their tests, and what is said of mistakes."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

import stratal
from stratal.ai.explain import impact
from stratal.sdk import pipeline_runs
from stratal.sdk.pipelines import authoring, dbt, worker
from stratal.sdk.pipelines.transforms import BadModel, chosen_of, models, read

pytestmark = pytest.mark.fast

FOLDER = {
    "mart/daily.sql": """
-- The distance of each day.
-- mode: upsert
-- keys: day
-- check: not_null("day")
-- check: between("km", 0, 500).warn()
select day, sum(km) as km from {{ ref('clean') }} where day >= {{ var('since', '2024-01-01') }} group by day;
""",
    "staging/clean.sql": "select * from {{ source('raw', 'trips') }} where km > 0 and zone = {{ zone }}",
    "mart/daily.test.sql": "select * from {{ this }} where day not in (select day from {{ ref('clean') }})",
    "mart/daily.positive.test.sql": "select * from {{ this }} where km <= 0",
    "top.sql": "-- into: best.days\nselect * from {{ ref('mart.daily') }} order by km desc limit 3",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FOLDER.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_models_come_after_those_they_refer_to(folder: Path) -> None:
    clean, daily, top = read(folder)
    assert [one.table for one in (clean, daily, top)] == ["staging.clean", "mart.daily", "best.days"]
    assert (daily.mode, daily.keys, daily.after) == ("upsert", ("day",), ("staging.clean",))
    assert clean.sources == ("raw.trips",)
    assert daily.text == (
        "select day, sum(km) as km from {{ ref('staging.clean') }} where day >= {{ since }} group by day"
    )
    names = [(check.name, check.blocking) for check in daily.checks]
    assert names == [
        ("not_null(day)", True), ("between(km, 0, 500)", False),
        ("daily.positive.test.sql", True), ("daily.test.sql", True),
    ]  # fmt: skip
    assert daily.checks[2].query == "select * from {table} where km <= 0"
    assert '"staging"."clean"' in daily.checks[3].query


def test_some_are_chosen_with_all_before_or_behind_them(folder: Path) -> None:
    found = read(folder)

    def chosen(*words: str) -> list[str]:
        return [model.name for model in chosen_of(found, words)]

    assert chosen("daily") == ["daily"]
    assert chosen("+daily") == ["clean", "daily"]
    assert chosen("clean+") == ["clean", "daily", "top"]
    assert chosen("top", "clean") == ["clean", "top"]
    with pytest.raises(BadModel, match="did you mean 'daily'"):
        chosen("dayly")


def test_the_pipelines_parameters_are_the_variables(folder: Path) -> None:
    made = stratal.models(folder)
    parameters = inspect.signature(made.function).parameters
    assert {name: one.default for name, one in parameters.items()} == {
        "zone": inspect.Parameter.empty,
        "since": "2024-01-01",
    }
    assert set(inspect.signature(models(folder, select=["daily"]).function).parameters) == {"since"}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.sql", "select * from {{ ref('nobody') }}", "there is no model 'nobody'"),
        ("a.sql", "select * from {{ ref('b') }}", "circle: default.a → default.b → default.a"),
        ("a.sql", "-- mode: merge\nselect 1", "the mode is append, replace, upsert"),
        ("a.sql", "-- mode: upsert\nselect 1", "needs its keys"),
        ("a.sql", "-- check: drop_table('x')\nselect 1", "is no check"),
        ("a.sql", "-- check: not_null(open('x'))\nselect 1", "is no check"),
        ("a.sql", "{% if x %}select 1{% endif %}", "is not understood"),
        ("a.sql", "select {{ var(day) }}", "takes literals"),
        ("a.sql", "  ", "is empty"),
        ("c.test.sql", "select 1", "tests no model"),
        ("x/b.sql", "-- into: default.b\nselect 1", "Two models make default.b"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / "b.sql").write_text("select * from {{ ref('a') }}" if "ref('b')" in text else "select 1 as x")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    with pytest.raises(BadModel, match=words):
        read(tmp_path)


def test_a_folder_without_models_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="holds no models"):
        read(tmp_path)
    with pytest.raises(BadModel, match="There is no folder"):
        read(tmp_path / "elsewhere")


def test_a_project_of_dbt_is_one_step_that_changes_with_its_files(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    (shop / "models").mkdir(parents=True)
    (shop / "dbt_project.yml").write_text("name: shop")
    (shop / "models" / "a.sql").write_text("select 1 as id")
    (shop / "target").mkdir()
    code = pipeline_runs._with_dbt("shop", ["a+"], ["day"])
    (tmp_path / "transform.py").write_text(code)

    def step() -> authoring.Step:
        names: dict[str, Any] = {}
        exec(compile(code, str(tmp_path / "transform.py"), "exec"), names)
        assert list(inspect.signature(names["transform"].function).parameters) == ["day"]
        found = names["project"]
        assert isinstance(found, authoring.Step)
        return found

    first = step()
    assert (first.name, first.kind, first.options.is_small) == ("shop", "dbt", False)
    (shop / "target" / "manifest.json").write_text("{}")
    assert step().text == first.text, "what dbt leaves behind is none of the project"
    (shop / "models" / "a.sql").write_text("select 2 as id")
    assert step().text != first.text
    with pytest.raises(ValueError, match="cannot be set from here"):
        pipeline_runs._with_dbt("shop", [], ["no-name"])
    with pytest.raises(FileNotFoundError, match="no project of dbt"):
        authoring.dbt_step(str(tmp_path))


def test_what_each_model_of_dbt_came_to_is_read_from_its_artifacts(tmp_path: Path) -> None:
    def node(kind: str, name: str, materialized: str, parents: list[str], sql: str = "") -> dict[str, Any]:
        place = {"schema": "shop", "alias": name, "relation_name": f'"dbt"."shop"."{name}"'}
        how = {"config": {"materialized": materialized}, "depends_on": {"nodes": parents}}
        return {"resource_type": kind, "name": name, **place, **how, "compiled_code": sql}

    nodes = {
        "model.clean": node(
            "model", "clean", "view", ["source.orders"], 'select id from "dbt"."raw"."orders"'
        ),
        "model.part": node("model", "part", "ephemeral", ["model.clean"]),
        "model.log": node("model", "log", "incremental", ["model.part", "seed.names"], "select 1 as id"),
        "seed.names": node("seed", "names", "seed", []),
        "model.late": node("model", "late", "table", ["model.log"]),
        "test.unique": {"resource_type": "test", "name": "unique"},
    }
    orders = {"schema": "raw", "identifier": "orders", "relation_name": '"dbt"."raw"."orders"'}
    manifest = {"nodes": nodes, "sources": {"source.orders": orders}}
    ended = {"clean": "success", "log": "error", "late": "skipped"}
    results = [
        {"unique_id": f"model.{name}", "status": status, "execution_time": 0.5, "message": "it says so"}
        for name, status in ended.items()
    ]
    results.append({"unique_id": "test.unique", "status": "pass"})
    (tmp_path / "dbt_project.yml").write_text("name: shop")
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "target" / "run_results.json").write_text(json.dumps({"results": results}))
    guest = dbt._Guest(tmp_path, tmp_path, None, {})
    clean, log, late = guest.models(guest.results())
    assert (clean["state"], clean["reads"], clean["words"]) == ("succeeded", ["raw.orders"], "")
    assert clean["sql"] == 'select id from "raw"."orders"', "as the table is called here"
    assert (log["state"], log["words"]) == ("failed", "it says so")
    assert log["reads"] == ["shop.clean", "shop.log", "shop.names"], (
        "through what is ephemeral, and on from itself"
    )
    assert (late["state"], late["table"]) == ("skipped", "shop.late")


def test_what_models_came_to_is_told_also_when_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(_folder: str, _text: str, _given: Any, models: list[dict[str, Any]]) -> Any:
        models.append({"name": "clean"})
        raise RuntimeError("zones: no such column")

    monkeypatch.setattr(dbt, "build", build)
    (tmp_path / "dbt_project.yml").write_text("name: shop")
    how = worker.outcome(authoring.dbt_step(str(tmp_path)), {})
    assert (how["state"], how["models"]) == ("failed", [{"name": "clean"}])


def test_only_what_is_made_of_a_table_is_its_impact_model_by_model() -> None:
    models = [
        {"table": "shop.zones", "reads": ["shop.clean", "ref.names"]},
        {"table": "shop.clean", "reads": ["raw.orders"]},
        {"table": "shop.other", "reads": ["raw.other"]},
        {"table": None, "reads": ["raw.orders"]},
    ]
    assert impact._of_models(models, {"raw.orders"}) == {"shop.clean", "shop.zones"}
    assert impact._of_models(models, {"ref.names"}) == {"shop.zones"}
    assert impact._of_models(models, {"elsewhere.x"}) == set()
