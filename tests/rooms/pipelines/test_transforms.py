"""Folders of SQL models: their order, their words, their tests, and what is said of mistakes."""

import inspect
from pathlib import Path
from typing import Any

import pytest

import stratal
from stratal.sdk import pipeline_runs
from stratal.sdk.pipelines import authoring
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
