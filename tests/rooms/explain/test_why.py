"""The chain of a prediction by a converted model goes on to what it was converted from, if its job read that."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import pytest

from stratal.ai.endpoints.model import Revision, RevisionState
from stratal.ai.endpoints.runtime import Plan
from stratal.ai.explain.model import Explanation, Status
from stratal.ai.explain.why import Why
from stratal.ai.models.conversion import PARITY_TAG, SOURCE_TAG
from stratal.ai.models.model import Facts, ModelVersion
from stratal.ai.predictions.service import Prediction
from stratal.compute.engine import Isolation, Usage
from stratal.compute.model import Job, JobState
from stratal.identity.model import Kind, Principal, Role
from stratal.kernel.errors import NotFound

pytestmark = pytest.mark.fast

ADA = Principal(Kind.PERSON, "per_1", "ada", "prj_a", "alpha", Role.EDITOR)
MADE = ModelVersion(*("mv_1", "prj_a", "m", 1, "", None, "", None, "job:7", "", "None", 1, 1, "ada"), Facts())
FORM = replace(
    MADE,
    id="mv_2",
    version=2,
    workload="job:8",
    tags={SOURCE_TAG: "models:/m/1", PARITY_TAG: '{"real_rows": 40, "rows": 1040, "apart": 1e-07}'},
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
    """What the rooms would tell of one prediction by `served`; `read`: the model versions that each job read."""

    def __init__(self, served: ModelVersion, asked: str | None, read: Mapping[str, list[str]]) -> None:
        options = {} if asked is None else {"asked": asked}
        self.revision_ = Revision(
            *(
                5,
                "ep_1",
                1,
                served.id,
                "m",
                str(served.version),
                (),
                Plan("onnx", options),
                None,
                "",
                None,
                None,
            ),
            *(RevisionState.ACTIVE, "", None, {}, {}, 1, "ada"),
        )
        self.served, self.read = served, read

    async def get(self, who: Principal, prediction_id: str) -> Prediction:
        return Prediction(prediction_id, "prj_a", "e", 5, 1, self.served.id, intact=True)

    async def revision(self, seq: int) -> Revision:
        return self.revision_

    async def by_id(self, version_id: str) -> ModelVersion:
        known = {version.id: version for version in (MADE, FORM)}
        if version_id not in known:
            raise NotFound("There is none.")
        return known[version_id]

    async def verify(self, version: ModelVersion) -> list[Any]:
        return []

    async def by_workload(self, workload: str) -> Job:
        return JOBS[workload]

    async def of(self, workload: str, project_id: str = "") -> list[Any]:
        return []

    async def step(self, workload: str) -> list[Any]:
        return []

    async def models_of(self, workload: str) -> list[str]:
        return self.read.get(workload, [])


def explained(served: ModelVersion, asked: str | None = None, **read: list[str]) -> Explanation:
    told = cast("Any", Records(served, asked, {name.replace("_", ":"): ids for name, ids in read.items()}))
    why = Why(told, told, told, told, told, told, told, told, told)
    return asyncio.run(why.explain(ADA, "pr_1"))


def kinds(found: Explanation) -> list[str]:
    return [link.kind for link in found.chain]


ONE = ["model version", "run", "job", "code", "environment"]


def test_a_model_of_a_job_ends_with_that_job() -> None:
    found = explained(MADE, job_7=["mv_2"])
    assert kinds(found) == ["prediction", "endpoint", *ONE]
    assert found.other_inputs == ("the network",)
    assert all(name != "serves" for name, _ in found.chain[1].facts)


def test_a_converted_one_goes_on_to_what_its_job_read() -> None:
    found = explained(FORM, "models:/m/1", job_8=["mv_gone", "mv_1"])
    assert kinds(found) == ["prediction", "endpoint", *ONE, *ONE]
    assert [link.name for link in found.chain if link.kind == "model version"] == ["m/2", "m/1"]
    assert (
        dict(found.chain[1].facts)["serves"]
        == "models:/m/2, the ONNX form of models:/m/1, which was asked for"
    )
    assert (
        "models:/m/1; its job noted the same answers on 40 real rows"
        in dict(found.chain[2].facts)["converted from"]
    )
    program = next(link for link in found.chain if link.kind == "code")
    assert (program.status, dict(program.facts)["program"]) == (
        Status.VERIFIED,
        "the text in the job's command, and no files",
    )
    assert found.other_inputs == ("the network",)  # of the training; the conversion had none


def test_what_a_tag_says_and_no_door_saw_is_not_followed() -> None:
    assert kinds(explained(FORM)) == ["prediction", "endpoint", *ONE]
    assert kinds(explained(FORM, job_8=["mv_2"])) == ["prediction", "endpoint", *ONE]
