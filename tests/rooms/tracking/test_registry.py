"""The registry: a version is its bytes, whatever happens to the run they came from."""

import pytest

from rooms.tracking.room import Room
from stratal.ai.models.logged import LoggedOrder, LoggedStatus, NewLoggedModel, OnDataset
from stratal.ai.models.model import State
from stratal.ai.models.pinning import NewVersion, location_of
from stratal.ai.models.reading import read_facts
from stratal.ai.models.removal import purge_models
from stratal.collab.model import Metric
from stratal.collab.runs import Batch
from stratal.kernel.errors import Conflict, Denied, Invalid, NotFound

pytestmark = pytest.mark.fast


@pytest.fixture
def named(room: Room) -> Room:
    """A room with the registered model ``m``."""
    room.do(room.names.create(room.ann, "prj_a", "m", tags={}))
    return room


def test_a_version_pins_what_was_there(named: Room) -> None:
    run = named.run()
    model_id = named.model(run)
    version = named.register("m", f"models:/{model_id}")
    assert [file.path for file in version.files] == ["MLmodel", "model.skops", "requirements.txt"]
    assert (version.run_id, version.logged_model_id, version.version) == (run.id, model_id, 1)
    assert version.facts.formats == ("skops",)
    assert set(version.facts.flavors) == {"python_function", "sklearn"}
    assert version.facts.requirements == "scikit-learn==1.9.1\n"
    assert version.facts.python_version == "3.11.9"
    assert version.facts.labels == ()
    assert version.facts.signature == {
        "inputs": [{"type": "double", "name": "x", "required": True}],
        "outputs": [{"type": "long", "required": True}],
    }

    place = f"0/models/{model_id}/artifacts"
    named.put(f"{place}/model.skops", b"other")
    named.do(named.artifacts.delete(named.ann, "prj_a", f"{place}/MLmodel"))
    named.put(f"{place}/more", b"1")
    assert named.get(f"{location_of(version)}/model.skops") == b"weights"
    checks = named.do(named.models.verify(version))
    assert {check.state for check in checks} == {State.VERIFIED}
    again = named.register("m", f"models:/{model_id}")
    assert [file.path for file in again.files] == ["model.skops", "more", "requirements.txt"]


def test_pinned_files_cannot_be_changed_by_anybody(named: Room) -> None:
    place = location_of(named.register("m", f"models:/{named.model(named.run())}"))
    with pytest.raises(Denied):
        named.put(f"{place}/model.skops", b"other")
    with pytest.raises(Denied):
        named.do(named.artifacts.delete(named.ann, "prj_a", place))
    assert named.get(f"{place}/model.skops") == b"weights"


def test_a_flipped_byte_and_a_lost_file_are_told_apart(named: Room) -> None:
    version = named.register("m", f"models:/{named.model(named.run())}")
    by_path = {file.path: named.blobs.local_path(file.blob_key) for file in version.files}
    broken, missing = by_path["model.skops"], by_path["requirements.txt"]
    assert broken is not None
    assert missing is not None
    broken.write_bytes(b"weightz")
    missing.unlink()
    states = {check.path: check.state for check in named.do(named.models.verify(version))}
    assert states == {
        "MLmodel": State.VERIFIED,
        "model.skops": State.BROKEN,
        "requirements.txt": State.MISSING,
    }


def test_every_way_to_say_which_version(named: Room) -> None:
    run = named.run()
    first = named.register("m", f"models:/{named.model(run)}")
    model_id = named.model(run, weights=b"better")
    second = named.register("m", f"runs:/{run.id}/model")
    named.do(named.names.set_alias(named.ann, "prj_a", "m", "best", "1"))
    named.do(named.models.transition(named.ann, "prj_a", "m", "1", "production", archive=False))

    def resolved(uri: str) -> str:
        return named.do(named.models.resolve(named.ann, "prj_a", uri)).id

    assert resolved("models:/m/1") == resolved("models:/m@best") == first.id
    assert resolved("models:/m/Production") == first.id
    assert resolved("models:/m/2") == resolved("models:/m/latest") == second.id
    assert resolved(f"models:/{model_id}") == resolved(f"runs:/{run.id}/model") == second.id
    for uri in (
        "models:/m/3",
        "models:/m@worst",
        "models:/x/1",
        "models:/m/Staging",
        "models:/m-0",
        "runs:/x/y",
    ):
        with pytest.raises(NotFound):
            resolved(uri)
    for uri in ("models:/m", "m/1", "models:/m/1/2", "", "s3://bucket/model", "models:/m/1@best"):
        with pytest.raises((Invalid, NotFound)):
            resolved(uri)
    with pytest.raises(NotFound):
        named.do(named.models.resolve(named.bob, "prj_b", "models:/m/1"))


def test_files_in_a_runs_own_directory_can_be_registered(named: Room) -> None:
    run = named.run()
    named.put(f"0/{run.id}/artifacts/deep/model/MLmodel", b"flavors: {}")
    named.put(f"0/{run.id}/artifacts/deep/model/model.pkl", b"1")
    named.put(f"0/{run.id}/artifacts/other", b"1")
    version = named.register("m", f"mlflow-artifacts:/0/{run.id}/artifacts/deep/model")
    assert [file.path for file in version.files] == ["MLmodel", "model.pkl"]
    assert (version.run_id, version.facts.labels) == (run.id, ("contains pickle",))


@pytest.mark.parametrize(
    "source",
    [
        "s3://bucket/model",
        "file:///etc",
        "/etc/passwd",
        "",
        "runs:/{run}/nothing",
        "runs:/{run}/../x",
        "mlflow-artifacts:/0/{run}/artifacts/../..",
        "mlflow-artifacts:/0/{run}",
        "models:/m/9",
        "models:/m-unknown",
    ],
)
def test_a_source_without_bytes_here_makes_no_version(shared: Room, source: str) -> None:
    name = f"sourceless-{shared.clock()}"
    shared.do(shared.names.create(shared.ann, "prj_a", name, tags={}))
    run = shared.run()
    with pytest.raises((Invalid, NotFound)):
        shared.register(name, source.format(run=run.id))
    assert shared.do(shared.models.of_model(shared.ann, "prj_a", name)) == []


def test_nobody_registers_another_projects_files(named: Room) -> None:
    run = named.run()
    model_id = named.model(run)
    named.do(named.names.create(named.bob, "prj_b", "theirs", tags={}))
    for source in (f"models:/{model_id}", f"runs:/{run.id}/model", f"mlflow-artifacts:/0/{run.id}/artifacts"):
        with pytest.raises(NotFound):
            named.do(named.models.create(named.bob, "prj_b", "theirs", NewVersion(source)))


def test_the_named_run_must_be_the_one_the_files_are_of(named: Room) -> None:
    run, other = named.run(), named.run()
    source = f"models:/{named.model(run)}"
    with pytest.raises(Invalid):
        named.do(named.models.create(named.ann, "prj_a", "m", NewVersion(source, run_id=other.id)))
    new = NewVersion(source, logged_model_id=named.model(other))
    with pytest.raises(Invalid):
        named.do(named.models.create(named.ann, "prj_a", "m", new))
    with pytest.raises(NotFound):
        named.do(named.models.create(named.ann, "prj_a", "m", NewVersion(source, logged_model_id="m-none")))


def test_a_version_leads_to_the_job_and_the_job_to_the_version(named: Room) -> None:
    run = named.run(who=named.job)
    source = f"models:/{named.model(run, who=named.job)}"
    version = named.register("m", source, who=named.job)
    assert (version.workload, version.job_id) == ("job:12", "12")
    written = named.do(named.lineage.of_workload("job:12", "write"))
    assert [(edge.kind, edge.version) for edge in written] == [("run", run.id), ("model", version.id)]
    by_hand = named.register("m", source)
    assert by_hand.job_id == "12"  # a person registered it, the job made it

    named.get(f"{location_of(version)}/MLmodel", who=named.job)
    read = named.do(named.lineage.of_workload("job:12", "read"))
    assert [(edge.kind, edge.version, edge.name) for edge in read] == [("model", version.id, "m/1")]


def test_deleting_a_version_deletes_its_bytes_and_its_number_stays_taken(named: Room) -> None:
    model_id = named.model(named.run())
    version = named.register("m", f"models:/{model_id}")
    named.do(named.names.set_alias(named.ann, "prj_a", "m", "best", "1"))
    for path in ("MLmodel", "model.skops", "requirements.txt"):
        named.do(named.artifacts.delete(named.ann, "prj_a", f"0/models/{model_id}/artifacts/{path}"))
    assert named.files() == 3
    named.do(named.models.delete(named.ann, "prj_a", "m", "1"))
    assert named.files() == 0
    with pytest.raises(NotFound):
        named.do(named.models.by_id(version.id))
    with pytest.raises(NotFound):
        named.do(named.models.resolve(named.ann, "prj_a", "models:/m@best"))
    assert named.register("m", f"models:/{named.model(named.run())}").version == 2


@pytest.mark.parametrize("by", ["a workload that read it", "an endpoint that holds it"])
def test_a_version_that_somebody_relied_on_is_still_explained_when_deleted(named: Room, by: str) -> None:
    version = named.register("m", f"models:/{named.model(named.run())}")
    if by.startswith("a workload"):
        named.do(named.models.resolve(named.job, "prj_a", "models:/m/1"))
    else:
        named.held.add(version.id)
    named.do(named.names.delete(named.ann, "prj_a", "m"))
    with pytest.raises(NotFound):
        named.do(named.models.resolve(named.ann, "prj_a", "models:/m/1"))
    kept = named.do(named.models.by_id(version.id))
    assert (kept.name, kept.version, kept.files) == ("m", 1, version.files)
    assert {check.state for check in named.do(named.models.verify(kept))} == {State.VERIFIED}


def test_a_renamed_model_is_found_by_its_new_name_only(named: Room) -> None:
    version = named.register("m", f"models:/{named.model(named.run())}")
    named.do(named.names.create(named.ann, "prj_a", "taken", tags={}))
    with pytest.raises(Conflict):
        named.do(named.names.rename(named.ann, "prj_a", "m", "taken"))
    named.do(named.names.rename(named.ann, "prj_a", "m", "n"))
    found = named.do(named.models.resolve(named.ann, "prj_a", "models:/n/1"))
    assert (found.id, found.name) == (version.id, "n")
    with pytest.raises(NotFound):
        named.do(named.models.resolve(named.ann, "prj_a", "models:/m/1"))


@pytest.mark.parametrize(
    "name", ["", " ", "a/b", "a:b", "a@b", "..", ".", "a\nb", "a\x00", "x" * 251, "\ud800"]
)
def test_what_cannot_name_a_model(shared: Room, name: str) -> None:
    with pytest.raises(Invalid):
        shared.do(shared.names.create(shared.ann, "prj_a", name, tags={}))


@pytest.mark.parametrize("alias", ["", "latest", "Latest", "v1", "V12", "a b", "a/b", "x" * 256])
def test_what_cannot_be_an_alias(shared: Room, alias: str) -> None:
    with pytest.raises(Invalid):
        shared.do(shared.names.set_alias(shared.ann, "prj_a", "m", alias, "1"))


def test_moving_to_a_stage_can_archive_the_one_before(named: Room) -> None:
    for _ in range(2):
        named.register("m", f"models:/{named.model(named.run())}")
    named.do(named.models.transition(named.ann, "prj_a", "m", "1", "Production", archive=False))
    named.do(named.models.transition(named.ann, "prj_a", "m", "2", "Production", archive=True))
    stages = {v.version: v.stage for v in named.do(named.models.of_model(named.ann, "prj_a", "m"))}
    assert stages == {1: "Archived", 2: "Production"}
    with pytest.raises(Invalid):
        named.do(named.models.transition(named.ann, "prj_a", "m", "2", "Live", archive=False))


def test_searching_names_and_versions(named: Room) -> None:
    run = named.run()
    named.register("m", f"models:/{named.model(run)}")
    named.do(named.names.create(named.ann, "prj_a", "Mm", tags={"team": "x"}))
    prompt = {"mlflow.prompt.is_prompt": "true"}
    named.do(named.names.create(named.ann, "prj_a", "prompt", tags=prompt))

    def names(text: str = "", *order: str) -> list[str]:
        page = named.do(named.names.search(named.ann, "prj_a", text=text, order_by=order))
        return [one.name for one in page.items]

    assert names() == ["Mm", "m"]
    assert names("name ILIKE 'm%'", "name DESC") == ["m", "Mm"]
    assert names("name LIKE 'm%'") == ["m"]
    assert names("tags.team = 'x'") == ["Mm"]
    assert names("tags.`mlflow.prompt.is_prompt` = 'true'") == ["prompt"]
    for text, count in (
        ("name = 'm'", 1),
        (f"run_id = '{run.id}'", 1),
        ("run_id IN ('x')", 0),
        ("version_number > 1", 0),
    ):
        page = named.do(named.models.search(named.ann, "prj_a", text=text))
        assert len(page.items) == count
    assert named.do(named.models.search(named.bob, "prj_b")).items == []


def test_logged_models_are_found_by_what_was_measured_of_them(room: Room) -> None:
    run = room.run()
    models = {}
    for name, auc in (("good", 0.9), ("bad", 0.4)):
        new = NewLoggedModel(name, params={"depth": name}, source_run_id=run.id)
        models[name] = room.do(room.logged.create(room.ann, "prj_a", "0", new)).id
        metric = Metric("auc", auc, 1000, 0, models[name], "cancer", "d1")
        room.do(room.runs.log(room.ann, "prj_a", run.id, Batch([metric])))

    def found(text: str = "", **more: object) -> list[str]:
        page = room.do(room.logged.search(room.ann, "prj_a", ["0"], text=text, **more))  # type: ignore[arg-type]
        return [model.name for model in page.items]

    assert found("metrics.auc > 0.5") == ["good"]
    assert found("params.depth = 'bad'") == ["bad"]
    assert found(order_by=[LoggedOrder("metrics.auc")]) == ["bad", "good"]
    assert found(order_by=[LoggedOrder("metrics.auc", ascending=False)]) == ["good", "bad"]
    assert found("metrics.auc > 0", datasets=[OnDataset("other")]) == []
    assert set(found(datasets=[OnDataset("cancer", "d1")])) == {"good", "bad"}
    done = room.do(room.logged.finalize(room.ann, "prj_a", models["good"], LoggedStatus.READY))
    assert (done.status, done.metrics[0][1].value) == (LoggedStatus.READY, 0.9)
    room.do(room.logged.delete(room.ann, "prj_a", models["good"]))
    assert found() == ["bad"]
    with pytest.raises(NotFound):
        room.do(room.logged.get(room.bob, "prj_b", models["bad"]))


def test_removing_a_project_removes_its_models(named: Room) -> None:
    named.register("m", f"models:/{named.model(named.run())}")
    for _ in range(2):
        named.do(purge_models(named.database, "prj_a"))
        named.do(named.collector.purge("prj_a"))
    assert named.files() == 0
    with pytest.raises(NotFound):
        named.do(named.names.get(named.ann, "prj_a", "m"))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"[1, 2]",
        b"flavors: [a]",
        b"flavors: {a: 1}",
        b"- " * 5000,
        b"!!python/object:os.system x",
    ],
)
def test_a_strange_description_gives_no_facts_and_no_error(text: bytes) -> None:
    assert read_facts({"MLmodel": text}, ["MLmodel"]).flavors == {}


def test_what_a_person_should_know_before_loading_is_labelled() -> None:
    text = b"flavors: {sklearn: {serialization_format: skops, skops_trusted_types: [a.B]}}"
    assert read_facts({"MLmodel": text}, ["model.skops"]).labels == ("names trusted types",)
    text = b"flavors: {sklearn: {serialization_format: cloudpickle, skops_trusted_types: null}}"
    assert read_facts({"MLmodel": text}, ["model.pkl"]).labels == ("contains pickle",)
    assert read_facts({}, ["model.onnx"]).labels == ()


def test_a_description_of_billions_of_values_costs_nothing() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for before, letter in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{letter}: &{letter} [{', '.join([f'*{before}'] * 9)}]")
    lines.append("flavors: {python_function: {x: *i}}")
    assert read_facts({"MLmodel": "\n".join(lines).encode()}, []).flavors == {"python_function": {}}
    lines = ["a: &a {k: x}"]
    for before, letter in zip("abcdefghijk", "bcdefghijkl", strict=True):
        lines.append(f"{letter}: &{letter} {{<<: [{', '.join([f'*{before}'] * 9)}]}}")
    assert read_facts({"MLmodel": "\n".join(lines).encode()}, []).flavors == {}
