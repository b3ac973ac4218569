"""``/api/v1/projects/{project}/finetunes``: a head on a frozen encoder, or adapters in a transformer, by a job."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from stratal.ai.finetuning.service import Aim, FineTunes, Method, Wish
from stratal.gateway.native.bodies import Strict, body_of, read_model
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects

Who = Annotated[Principal, Depends(caller)]


class FineTuneBody(Strict):
    aim: Aim = Field(
        description="classify: a text and its class a row; embed: two texts that belong together."
    )
    name: str = Field(description="What the new model is called.")
    source: str = Field(description="s3://bucket/key: lines of JSON.")
    base: str = Field(
        "models:/all-minilm-l6-v2/latest", description="What is fine-tuned, a version of the registry."
    )
    encoder: str = Field("all-minilm-l6-v2", description="The endpoint that serves it; for a head.")
    method: Method | None = Field(
        None,
        description="head, or lora: adapters in the transformer. Absent: lora where there is a GPU or no head is put "
        "on the base.",
    )
    epochs: int = Field(
        5, ge=1, le=1000, description="For lora: how often the rows are gone through at most."
    )
    rate: float = Field(5e-4, gt=0, le=1, description="For lora: the learning rate.")
    first: str = Field("text", description="What the text is called in the rows.")
    second: str | None = Field(None, description="The class, or the other text; absent: label, or other.")
    seed: int = Field(0, ge=0, le=2**31, description="Chooses which fifth of the rows is held out.")


def router(finetunes: FineTunes, projects: Projects) -> APIRouter:
    """Routes of fine-tuning. What became of one is told by its job."""
    api = APIRouter(tags=["finetunes"])

    @api.post("/projects/{project}/finetunes", status_code=201, openapi_extra=body_of(FineTuneBody))
    async def begin_finetune(request: Request, who: Who, project: str) -> dict[str, object]:
        """Queue the job that fine-tunes; durable once this answers."""
        place = await projects.get(who, project)
        body = await read_model(request, FineTuneBody, 1 << 16)
        otherwise = "label" if body.aim is Aim.CLASSIFY else "other"
        columns = {"first": body.first, "second": body.second or otherwise}
        wish = Wish(
            body.aim, body.name, body.source, body.base, body.encoder, columns, body.seed,
            method=body.method, epochs=body.epochs, rate=body.rate,
        )  # fmt: skip
        job = await finetunes.begin(who, place.id, wish)
        return {"job": job.id, "state": job.state.value, "name": body.name}

    return api
