"""Experiments and runs: what is kept, what is refused, and whose it is."""

import math
import operator
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rooms.tracking.room import Room
from stratal.collab.model import Dataset, Metric, RunStatus, View
from stratal.collab.run_search import Query
from stratal.collab.runs import Batch, NewRun
from stratal.kernel.errors import Conflict, Denied, Invalid, NotFound, StratalError

pytestmark = pytest.mark.fast


def test_every_project_has_its_own_default_experiment(room: Room) -> None:
    mine = room.do(room.experiments.get(room.ann, "prj_a", "0"))
    theirs = room.do(room.experiments.get(room.bob, "prj_b", "0"))
    assert (mine.name, mine.id, theirs.name, theirs.id) == ("Default", "0", "Default", "0")
    room.run("only mine")
    page = room.do(room.search.search(room.bob, "prj_b", Query(["0"])))
    assert page.items == []


def test_an_experiment_of_another_project_does_not_exist(room: Room) -> None:
    made = room.do(room.experiments.create(room.ann, "prj_a", "secret", {}))
    for call in (
        room.experiments.get(room.bob, "prj_b", made.id),
        room.experiments.rename(room.bob, "prj_b", made.id, "mine"),
        room.experiments.delete(room.bob, "prj_b", made.id),
        room.experiments.set_tag(room.bob, "prj_b", made.id, "k", "v"),
        room.runs.create(room.bob, "prj_b", made.id, NewRun()),
    ):
        with pytest.raises(NotFound):
            room.do(call)
    room.do(room.experiments.create(room.bob, "prj_b", "secret", {}))  # the name is free there


def test_a_run_of_another_project_does_not_exist(room: Room) -> None:
    run = room.run()
    for call in (
        room.runs.get(room.bob, "prj_b", run.id),
        room.runs.log(room.bob, "prj_b", run.id, Batch(tags=[("k", "v")])),
        room.runs.update(room.bob, "prj_b", run.id, status=RunStatus.KILLED),
        room.runs.delete(room.bob, "prj_b", run.id),
        room.runs.series(room.bob, "prj_b", run.id, "m"),
        room.artifacts.entries(room.bob, "prj_b", f"0/{run.id}/artifacts"),
    ):
        with pytest.raises(NotFound):
            room.do(call)


def test_a_viewer_looks_and_does_not_touch(room: Room) -> None:
    run = room.run()
    assert room.do(room.runs.get(room.viewer, "prj_a", run.id)).id == run.id
    for call in (
        room.runs.create(room.viewer, "prj_a", "0", NewRun()),
        room.runs.log(room.viewer, "prj_a", run.id, Batch(params=[("a", "1")])),
        room.experiments.create(room.viewer, "prj_a", "x", {}),
        room.experiments.delete(room.viewer, "prj_a", "0"),
    ):
        with pytest.raises(Denied):
            room.do(call)


def test_a_deleted_experiment_keeps_its_name_and_comes_back_with_its_runs(room: Room) -> None:
    made = room.do(room.experiments.create(room.ann, "prj_a", "e", {"k": "v"}))
    run = room.do(room.runs.create(room.ann, "prj_a", made.id, NewRun()))
    room.do(room.experiments.delete(room.ann, "prj_a", made.id))
    assert room.do(room.runs.get(room.ann, "prj_a", run.id)).lifecycle == "deleted"
    with pytest.raises(Conflict):
        room.do(room.experiments.create(room.ann, "prj_a", "e", {}))
    with pytest.raises(Invalid):
        room.do(room.runs.create(room.ann, "prj_a", made.id, NewRun()))
    room.do(room.experiments.restore(room.ann, "prj_a", made.id))
    assert room.do(room.experiments.get(room.ann, "prj_a", made.id)).tags == {"k": "v"}
    assert room.do(room.runs.get(room.ann, "prj_a", run.id)).lifecycle == "active"


def test_params_are_written_once(room: Room) -> None:
    run = room.run()
    room.do(room.runs.log(room.ann, "prj_a", run.id, Batch(params=[("lr", "0.1")])))
    room.do(room.runs.log(room.ann, "prj_a", run.id, Batch(params=[("lr", "0.1")])))
    with pytest.raises(Invalid) as refused:
        room.do(room.runs.log(room.ann, "prj_a", run.id, Batch(params=[("lr", "0.2"), ("x", "1")])))
    assert refused.value.reason == "param_changed"
    assert room.do(room.runs.get(room.ann, "prj_a", run.id)).params == {"lr": "0.1"}


def test_a_batch_is_kept_whole_or_not_at_all(room: Room) -> None:
    run = room.run()
    room.do(room.runs.log(room.ann, "prj_a", run.id, Batch(params=[("a", "1")])))
    batch = Batch([Metric("m", 1.0, 1, 0)], [("b", "2"), ("a", "other")], [("t", "v")])
    with pytest.raises(Invalid):
        room.do(room.runs.log(room.ann, "prj_a", run.id, batch))
    found = room.do(room.runs.get(room.ann, "prj_a", run.id))
    assert (found.metrics, found.params, "t" in found.tags) == ((), {"a": "1"}, False)


@pytest.mark.parametrize(
    "batch",
    [
        Batch(params=[(f"p{i}", "") for i in range(101)]),
        Batch(tags=[(f"t{i}", "") for i in range(101)]),
        Batch(metrics=[Metric(f"m{i}", 0, 0, 0) for i in range(1001)]),
        Batch(params=[("a", "1"), ("a", "2")]),
        Batch(params=[("../etc/passwd", "1")]),
        Batch(params=[("a//b", "1")]),
        Batch(params=[("/a", "1")]),
        Batch(params=[(".", "1")]),
        Batch(params=[("a\nb", "1")]),
        Batch(params=[("k" * 2000, "1")]),
        Batch(params=[("", "1")]),
        Batch(params=[("a", "v" * 100_001)]),
        Batch(tags=[("a", "nul\x00")]),
        Batch(metrics=[Metric("a?b", 0, 0, 0)]),
        Batch(metrics=[Metric("a", 0, -1, 0)]),
        Batch(metrics=[Metric("a", 0, 2**63, 0)]),
        Batch(metrics=[Metric("a", 0, 0, 2**63)]),
    ],
)
def test_what_cannot_be_kept_is_refused_and_changes_nothing(shared: Room, batch: Batch) -> None:
    run = shared.run()
    with pytest.raises(Invalid):
        shared.do(shared.runs.log(shared.ann, "prj_a", run.id, batch))
    found = shared.do(shared.runs.get(shared.ann, "prj_a", run.id))
    assert (found.metrics, found.params, len(found.tags)) == ((), {}, 1)


def test_a_deleted_run_is_not_logged_to_until_it_is_restored(room: Room) -> None:
    run = room.run()
    room.do(room.runs.delete(room.ann, "prj_a", run.id))
    with pytest.raises(Invalid) as refused:
        room.do(room.runs.log(room.ann, "prj_a", run.id, Batch(tags=[("k", "v")])))
    assert refused.value.reason == "not_active"
    room.do(room.runs.restore(room.ann, "prj_a", run.id))
    room.do(room.runs.log(room.ann, "prj_a", run.id, Batch(tags=[("k", "v")])))


def test_the_name_and_its_tag_are_one(room: Room) -> None:
    run = room.run("first")
    room.do(room.runs.log(room.ann, "prj_a", run.id, Batch(tags=[("mlflow.runName", "second")])))
    assert room.do(room.runs.get(room.ann, "prj_a", run.id)).name == "second"
    room.do(room.runs.update(room.ann, "prj_a", run.id, name="third"))
    assert room.do(room.runs.get(room.ann, "prj_a", run.id)).tags["mlflow.runName"] == "third"
    new = NewRun("a", tags={"mlflow.runName": "b"})
    with pytest.raises(Invalid):
        room.do(room.runs.create(room.ann, "prj_a", "0", new))


def test_a_run_made_by_a_job_says_which(room: Room) -> None:
    run = room.run(who=room.job)
    assert run.workload == "job:12"
    assert [found.id for found in room.do(room.runs.of_workload(room.ann, "prj_a", "job:12"))] == [run.id]
    (edge,) = room.do(room.lineage.of_workload("job:12", "write"))
    assert (edge.kind, edge.version) == ("run", run.id)


def test_data_sets_are_noted_and_searched(room: Room) -> None:
    run = room.run("trained")
    data = Dataset("cancer", "d1", "http", "{}", tags={"mlflow.data.context": "train"})
    for _ in range(2):
        room.do(room.runs.log_inputs(room.ann, "prj_a", run.id, [data], ["m-1"]))
    found = room.do(room.runs.get(room.ann, "prj_a", run.id))
    assert (found.datasets, found.input_models) == ((data,), ("m-1",))
    assert room.found("dataset.name = 'cancer' AND dataset.context = 'train'") == ["trained"]
    assert room.found("dataset.digest = 'd2'") == []


def test_searching_minds_case_and_wildcards(room: Room) -> None:
    for name in ("Alpha", "alpha", "be*ta", "be[t]a"):
        room.run(name, kind=name)
    assert set(room.found("run_name LIKE 'A%'")) == {"Alpha"}
    assert set(room.found("run_name ILIKE 'A%'")) == {"Alpha", "alpha"}
    assert room.found("tags.kind LIKE 'be*%'") == ["be*ta"]
    assert room.found("tags.kind LIKE 'be[t]_'") == ["be[t]a"]
    assert room.found("tags.kind ILIKE 'BE[%'") == ["be[t]a"]


def test_runs_without_the_metric_come_last_and_nan_before_them(room: Room) -> None:
    for name, value in (("low", 0.1), ("none", None), ("high", 0.9), ("nan", math.nan), ("inf", math.inf)):
        run = room.run(name)
        if value is not None:
            room.log(run, auc=value)
    assert room.found("", "metrics.auc ASC") == ["low", "high", "inf", "nan", "none"]
    assert room.found("", "metrics.auc DESC") == ["inf", "high", "low", "nan", "none"]
    assert set(room.found("metrics.auc != 0.1")) == {"high", "inf", "nan"}
    assert set(room.found("metrics.auc > 0")) == {"low", "high", "inf"}


def test_pages_hold_every_run_once(room: Room) -> None:
    names = [f"r{i}" for i in range(7)]
    for name in names:
        room.run(name)
    seen: list[str] = []
    token = ""
    while True:
        page = room.do(room.search.search(room.ann, "prj_a", Query(["0"], limit=3, token=token)))
        seen += [run.name for run in page.items]
        token = page.next_token
        if not token:
            break
    assert seen == names[::-1]


def test_views_choose_between_the_living_and_the_deleted(room: Room) -> None:
    room.run("kept")
    gone = room.run("gone")
    room.do(room.runs.delete(room.ann, "prj_a", gone.id))
    assert room.found() == ["kept"]
    assert room.found(view=View.DELETED_ONLY) == ["gone"]
    assert set(room.found(view=View.ALL)) == {"kept", "gone"}


OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
NUMBERS = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 1e300, math.nan, math.inf, -math.inf])
RUNS = st.lists(
    st.fixed_dictionaries(
        {"m": st.none() | NUMBERS, "p": st.none() | st.sampled_from(["", "a", "A", "a'b", "%"])}
    ),
    min_size=1,
    max_size=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(
    wanted=RUNS,
    op=st.sampled_from(list(OPERATORS)),
    limit=st.sampled_from([-1.0, 0.0, 0.5, 2.0]),
    text=st.none() | st.tuples(st.sampled_from(["=", "!="]), st.sampled_from(["", "a", "a'b", "%"])),
)
def test_a_search_finds_what_python_would(
    room: Room, wanted: list[dict[str, Any]], op: str, limit: float, text: tuple[str, str] | None
) -> None:
    made = room.do(room.experiments.create(room.ann, "prj_a", f"e{room.clock()}", {}))
    for number, values in enumerate(wanted):
        run = room.do(room.runs.create(room.ann, "prj_a", made.id, NewRun(f"r{number}")))
        batch = Batch(
            [] if values["m"] is None else [Metric("m", values["m"], 1, 0)],
            [] if values["p"] is None else [("p", values["p"])],
        )
        room.do(room.runs.log(room.ann, "prj_a", run.id, batch))
    filter_ = f"metrics.m {op} {limit}"
    if text is not None:
        filter_ += " AND params.p {} '{}'".format(text[0], text[1].replace("'", "''"))
    page = room.do(room.search.search(room.ann, "prj_a", Query([made.id], filter_)))
    expected = {
        f"r{number}"
        for number, values in enumerate(wanted)
        if values["m"] is not None
        and OPERATORS[op](values["m"], limit)
        and (text is None or (values["p"] is not None and OPERATORS[text[0]](values["p"], text[1])))
    }
    assert {run.name for run in page.items} == expected


def test_a_page_size_or_token_that_makes_no_sense_is_refused(room: Room) -> None:
    for query in (Query(limit=-1), Query(limit=50_001), Query(token="made up"), Query(order_by=["x"])):
        with pytest.raises(StratalError) as refused:
            room.do(room.search.search(room.ann, "prj_a", query))
        assert refused.value.status == 400
