"""The chain of a prediction: by a version's own files, by its form, and by what was converted before there were forms."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, cast

import pytest

from stratal.ai.endpoints.model import PinnedFile, Revision, RevisionState
from stratal.ai.endpoints.runtime import Plan
from stratal.ai.explain.model import Explanation, Link, Status
from stratal.ai.explain.why import Why
from stratal.ai.models.model import Facts, FileCheck, Form, FormState, ModelFile, ModelVersion, State
from stratal.ai.predictions.service import Prediction
from stratal.compute.engine import Isolation, Usage
from stratal.compute.model import Job, JobState
from stratal.identity.model import Kind, Principal, Role
from stratal.kernel.errors import NotFound

pytestmark = pytest.mark.fast

ADA = Principal(Kind.PERSON, "per_1", "ada", "prj_a", "alpha", Role.EDITOR)
MADE = ModelVersion(*("mv_1", "prj_a", "m", 1, "", None, "", None, "job:7", "", "None", 1, 1, "ada"), Facts())
OLD = replace(MADE, id="mv_2", version=2, workload="job:8", tags={"stratal.converted_from": "models:/m/1"})
"""Converted before versions had forms: a version of its own."""
FORM = Form(
    *("mf_1", "prj_a", "mv_1", "onnx", FormState.MADE, "", "8"),
    *({"real_rows": 40, "rows": 1040, "apart": 1e-07}, 1, 2, "ada"),
    (ModelFile("model.onnx", 5, "aa", "blob"),),
)


def job(number: int, argv: list[str], others: tuple[str, ...]) -> Job:
    known: dict[str, Any] = dict.fromkeys(Job.__dataclass_fields__)
    known |= {"id": number, "project_id": "prj_a", "project": "alpha", "name": "", "argv": argv}
    known |= {
        "state": JobState.SUCCEEDED,
        "exit_code": 0,
        "source": {},
        "usage": Usage(),
        "created_by": "ada",
    }
    known |= {"queued_at": 1, "isolation": Isolation("bubblewrap", "platform", other_inputs=others)}
    return Job(**known)


JOBS = {
    "job:7": job(7, ["python", "train.py"], ("the network",)),
    "job:8": job(8, ["python", "-c", "text"], ()),
}


class Records:
    """What the rooms would tell of one prediction by `served`, or a form of it; `read`: the model versions that each
    job read."""

    def __init__(
        self,
        served: ModelVersion,
        options: Mapping[str, str],
        read: Mapping[str, list[str]],
        sha256: str,
        made: Mapping[str, list[str]] = MappingProxyType({}),
    ) -> None:
        self.revision_ = Revision(
            *(
                5,
                "ep_1",
                1,
                served.id,
                "m",
                str(served.version),
                [PinnedFile("model.onnx", sha256, 5, "blob")],
                Plan("onnx", options),
                None,
                "",
                None,
                None,
            ),
            *(
                RevisionState.ACTIVE,
                "",
                None,
                {"model.onnx": sha256} if "form" in options else {},
                {},
                1,
                "ada",
            ),
        )
        self.served, self.read, self.made = served, read, made

    async def get(self, who: Principal, prediction_id: str) -> Prediction:
        return Prediction(prediction_id, "prj_a", "e", 5, 1, self.served.id, intact=True)

    async def revision(self, seq: int) -> Revision:
        return self.revision_

    async def by_id(self, id_: str) -> ModelVersion | Form:
        known = {one.id: one for one in (MADE, OLD, FORM)}
        if id_ not in known:
            raise NotFound("There is none.")
        return known[id_]

    async def verify(self, one: ModelVersion | Form) -> list[Any]:
        return [FileCheck(f.path, f.sha256, f.sha256, State.VERIFIED) for f in one.files]

    async def by_workload(self, workload: str) -> Job:
        number = int(workload.partition(":")[2].partition("/")[0])
        if workload.startswith("job:404"):
            raise NotFound("There is none.")
        if workload.startswith("job:9"):
            return replace(JOBS["job:8"], project_id="prj_b")
        return JOBS.get(workload) or job(number, ["worker"], ())

    async def of(self, workload: str, project_id: str = "") -> list[Link]:
        """What it read is called after those who wrote that, and `raw` when nobody did."""
        if not self.made:
            return []
        return [Link("table snapshot", name, name) for name in self.made.get(workload, ["raw"])]

    async def step(self, workload: str) -> list[Link]:
        return [Link("pipeline step", workload, workload)] if "/" in workload else []

    async def makers(self, workload: str) -> list[str]:
        return list(self.made.get(workload, []))

    async def models_of(self, workload: str) -> list[str]:
        return self.read.get(workload, [])


def explained(
    served: ModelVersion, *, sha256: str = "aa", options: Any = None, **read: list[str]
) -> Explanation:
    reads = {name.replace("_", ":"): ids for name, ids in read.items()}
    return told_by(Records(served, options or {}, reads, sha256))


def told_by(records: Records) -> Explanation:
    told = cast("Any", records)
    why = Why(told, told, told, told, told, told, told, told, told, told, told)
    return asyncio.run(why.explain(ADA, "pr_1"))


def kinds(found: Explanation) -> list[str]:
    return [link.kind for link in found.chain]


ONE = ["model version", "run", "job", "code", "environment"]


BY_FORM = {"form": "mf_1", "converted_by": "8"}
FORMED = ["form", "job", "code", "environment"]


def test_a_model_of_a_job_ends_with_that_job() -> None:
    found = explained(MADE, job_7=["mv_2"])
    assert kinds(found) == ["prediction", "endpoint", *ONE]
    assert found.other_inputs == ("the network",)
    assert dict(found.chain[1].facts)["serves"] == "models:/m/1 by its own files, with onnx"


def test_a_form_comes_before_the_version_that_its_job_was_seen_reading() -> None:
    found = explained(MADE, options=BY_FORM, job_8=["mv_1"])
    assert kinds(found) == ["prediction", "endpoint", *FORMED, *ONE]
    assert dict(found.chain[1].facts)["serves"] == "the ONNX form of models:/m/1, converted by job 8"
    form = found.chain[2]
    assert (form.id, form.name, form.status) == ("mf_1", "m/1 as ONNX", Status.VERIFIED)
    assert [one.what for one in form.hashes] == ["model.onnx", "model.onnx as loaded"]
    compared = dict(form.facts)["compared"]
    assert compared.startswith("its job noted the same answers on 40 real rows")
    program = found.chain[4]
    assert (program.status, dict(program.facts)["program"]) == (
        Status.VERIFIED,
        "the text in the job's command, and no files",
    )
    assert found.other_inputs == ("the network",)  # of the training; the conversion had none
    assert explained(MADE, options=BY_FORM).chain[3].status is Status.UNPROVEN  # its job read something else
    assert explained(MADE, options=BY_FORM, sha256="bb", job_8=["mv_1"]).chain[2].status is Status.BROKEN
    gone = explained(MADE, options={**BY_FORM, "form": "mf_9"})
    assert (gone.chain[2].kind, gone.chain[2].status) == ("form", Status.UNPROVEN)


def test_what_was_converted_as_a_version_goes_on_to_what_its_job_read() -> None:
    found = explained(OLD, options={"asked": "models:/m/1"}, job_8=["mv_gone", "mv_1"])
    assert kinds(found) == ["prediction", "endpoint", *ONE, *ONE]
    assert [link.name for link in found.chain if link.kind == "model version"] == ["m/2", "m/1"]
    serves = dict(found.chain[1].facts)["serves"]
    assert serves == "models:/m/2, the ONNX form of models:/m/1, which was asked for"
    assert dict(found.chain[2].facts)["converted from"] == "models:/m/1"


def test_what_a_tag_says_and_no_door_saw_is_not_followed() -> None:
    assert kinds(explained(OLD)) == ["prediction", "endpoint", *ONE]
    assert kinds(explained(OLD, job_8=["mv_2"])) == ["prediction", "endpoint", *ONE]


def test_it_goes_on_above_what_the_training_read_to_who_brought_it_in() -> None:
    made = {
        "job:7": ["job:2/3.1", "job:90/1.1"],  # another project's work is not shown
        "job:2/3.1": ["job:2/1.1", "job:2/2.1"],
        "job:2/2.1": ["job:2/1.1", "job:404", "job:7"],  # what was met before is not gone through again
    }
    found = told_by(Records(MADE, {}, {}, "aa", made))
    above = found.chain[len(["prediction", "endpoint", *ONE]) :]
    steps = [link.name for link in above if link.kind == "pipeline step"]
    assert steps == ["job:2/3.1", "job:2/1.1", "job:2/2.1"]
    assert [link.name for link in above if link.kind == "table snapshot"] == [
        *["job:2/3.1", "job:90/1.1"],
        *["job:2/1.1", "job:2/2.1"],
        *["raw", "job:404", "job:7"],
    ]
    assert [link.name for link in above if link.status is Status.UNPROVEN and link.kind == "job"] == [
        "job:404"
    ]
    assert all(link.name != "job:90/1.1" for link in above if link.kind == "pipeline step")


def test_more_than_a_screen_can_hold_is_said_to_be_there() -> None:
    made = {"job:7": ["job:2/1.1"]} | {f"job:2/{n}.1": [f"job:2/{n + 1}.1"] for n in range(1, 200)}
    found = told_by(Records(MADE, {}, {}, "aa", made))
    assert len([link for link in found.chain if link.kind == "pipeline step"]) == 60
    assert (found.chain[-1].kind, found.status) == ("upstream", Status.UNPROVEN)
