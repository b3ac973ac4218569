"""``/api/v1/projects/{project}/indexes``: documents found by meaning and words, and answered from with citations."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from stratal.ai.retrieval.model import Answer, Calibration, Citation, IndexView, Passage, Question
from stratal.ai.retrieval.room import Room
from stratal.data.lake.model import Place
from stratal.gateway.gone import unless_gone
from stratal.gateway.native.bodies import Strict, body_of, read_model
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso

Who = Annotated[Principal, Depends(caller)]
_MAX_BODY = 4 << 20
_DEFAULT_EMBEDDER = "all-minilm-l6-v2"


class IndexBody(Strict):
    source: str = Field(description="s3://bucket/docs/**; * stands for anything but a slash.")
    embedder: str = Field(_DEFAULT_EMBEDDER, description="An endpoint of the project that makes embeddings.")
    ocr: str | None = Field(
        None, description="An endpoint that reads pictures; without it they are left out."
    )


class Asked(Strict):
    query: str
    limit: int = Field(10, ge=1, le=50)


class AskedFor(Strict):
    question: str
    model: str | None = Field(
        None, description="An endpoint that writes; absent: sentences of the documents."
    )


class Skipped(Strict):
    document: str
    reason: str


class BuiltBody(Strict):
    documents: int
    passages: int
    skipped: list[Skipped] = Field(default_factory=list)


class QuestionBody(Strict):
    question: str
    document: str | None = Field(
        None, description="A document that answers it (s3://… or a part); absent: none."
    )
    group: str = Field(
        "", max_length=200, description="Questions of a group choose or measure together; absent: each alone."
    )


class Questions(Strict):
    questions: list[QuestionBody]
    at_most_wrong: float | None = Field(
        None,
        ge=0,
        le=1,
        description="What share of questions that are not answered may be answered all the same; absent: what tells both "
        "kinds apart best.",
    )


def router(room: Room, projects: Projects) -> APIRouter:
    """Routes of retrieval."""
    api = APIRouter(tags=["indexes"])
    indexes, search = room.indexes, room.search

    async def place_of(who: Principal, project: str) -> Place:
        found = await projects.get(who, project)
        return Place(found.id, found.name)

    @api.get("/projects/{project}/indexes")
    async def list_indexes(who: Who, project: str) -> dict[str, object]:
        """The project's indexes by name."""
        return {"indexes": [_view(one) for one in await indexes.list(who, await place_of(who, project))]}

    @api.put("/projects/{project}/indexes/{name}", openapi_extra=body_of(IndexBody))
    async def build_index(request: Request, who: Who, project: str, name: str) -> dict[str, object]:
        """Make the index, or build it anew, by a job; durable once this answers."""
        place = await place_of(who, project)
        body = await read_model(request, IndexBody, _MAX_BODY)
        return _view(await indexes.build(who, place, name, body.source, body.embedder, body.ocr))

    @api.get("/projects/{project}/indexes/{name}")
    async def get_index(who: Who, project: str, name: str) -> dict[str, object]:
        return _view(await indexes.get(who, await place_of(who, project), name))

    @api.delete("/projects/{project}/indexes/{name}", status_code=204)
    async def remove_index(who: Who, project: str, name: str) -> None:
        """Remove the index and its passages; the documents stay."""
        await indexes.remove(who, await place_of(who, project), name)

    @api.post("/projects/{project}/indexes/{name}/search", openapi_extra=body_of(Asked))
    async def search_index(request: Request, who: Who, project: str, name: str) -> dict[str, object]:
        """The passages that fit best, by meaning and by words."""
        place = await place_of(who, project)
        body = await read_model(request, Asked, _MAX_BODY)
        index = await indexes.searchable(who, place, name)
        found = await search.find(
            who, place, index, body.query, limit=body.limit, request_id=_request_id(request)
        )
        return {
            "passages": [_passage(passage) for passage in found.passages],
            "confidence": found.confidence,
            "threshold": index.calibration.threshold if index.calibration else None,
            "snapshot_id": found.snapshot_id,
        }

    @api.post("/projects/{project}/indexes/{name}/ask", openapi_extra=body_of(AskedFor))
    async def ask_index(request: Request, who: Who, project: str, name: str) -> dict[str, object]:
        """An answer with citations, or the word that these documents do not give one."""
        place = await place_of(who, project)
        body = await read_model(request, AskedFor, _MAX_BODY)
        index = await indexes.searchable(who, place, name)
        answering = search.answer(
            who, place, index, body.question, model=body.model, request_id=_request_id(request)
        )
        return shown(await unless_gone(request, answering))

    @api.post("/projects/{project}/indexes/{name}/calibration", openapi_extra=body_of(Questions))
    async def calibrate_index(request: Request, who: Who, project: str, name: str) -> dict[str, object]:
        """Choose from which confidence on questions are answered, by questions of which it is known."""
        place = await place_of(who, project)
        body = await read_model(request, Questions, _MAX_BODY)
        asked = [Question(one.question, one.document, one.group) for one in body.questions]
        made = await indexes.calibrate(
            who, place, name, asked, at_most_wrong=body.at_most_wrong, request_id=_request_id(request)
        )
        return _calibration(made)

    @api.post("/projects/{project}/indexes/{name}/built", openapi_extra=body_of(BuiltBody))
    async def index_built(request: Request, who: Who, project: str, name: str) -> dict[str, object]:
        """What the index's job tells when it is done; nobody else may."""
        place = await place_of(who, project)
        body = await read_model(request, BuiltBody, _MAX_BODY)
        skipped = [one.model_dump() for one in body.skipped]
        return _view(
            await indexes.done(
                who, place, name, documents=body.documents, passages=body.passages, skipped=skipped
            )
        )

    return api


def _request_id(request: Request) -> str:
    return str(request.scope["state"]["request_id"])


def _view(view: IndexView) -> dict[str, object]:
    index = view.index
    return {
        "name": index.name,
        "id": index.id,
        "state": view.state.value,
        "failure": view.failure,
        "source": index.source,
        "table": index.table,
        "embedder": index.embedder,
        "ocr": index.ocr,
        "job": index.job_id,
        "documents": index.built.documents if index.built else None,
        "passages": index.built.passages if index.built else None,
        "skipped": [dict(one) for one in index.built.skipped] if index.built else [],
        "built_at": iso(index.built.at) if index.built else None,
        "calibration": _calibration(index.calibration) if index.calibration else None,
        "created_at": iso(index.created_at),
        "created_by": index.created_by,
    }


def _calibration(made: Calibration) -> dict[str, object]:
    return {
        "threshold": made.threshold,
        "questions": made.questions,
        "answered": made.answered,
        "refused": made.refused,
        "source": made.source,
        "at_most_wrong": made.at_most_wrong,
    }


def _passage(passage: Passage) -> dict[str, object]:
    return {
        "id": passage.id,
        "document": passage.document,
        "version": passage.version,
        "title": passage.title,
        "page": passage.page,
        "position": passage.position,
        "text": passage.text,
        "near": passage.near,
        "words": passage.words,
        "score": passage.score,
        "confidence": passage.confidence,
    }


def shown(answer: Answer) -> dict[str, Any]:
    return {
        "answer": answer.text,
        "mode": answer.mode,
        "note": answer.note,
        "confidence": answer.confidence,
        "threshold": answer.threshold,
        "citations": [_citation(one) for one in answer.citations],
        "snapshot_id": answer.snapshot_id,
    }


def _citation(citation: Citation) -> dict[str, object]:
    said = {"number": citation.number, "quote": citation.quote, "supported": citation.supported}
    return {**said, **_passage(citation.passage)}
