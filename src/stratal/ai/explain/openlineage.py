"""Runs of pipelines as OpenLineage events (spec 2-0-2), for catalogues that collect lineage of many systems.

An event for the start and one for the end of the run and of each of its steps that was done; a step's inputs and outputs
are the tables and objects that its credential was seen to read and write, with the very snapshots. Columns
are told where a query made them. Each model of a project of dbt has an event of its own, as dbt's artifacts tell of it.
Replays, which make nothing, have no events.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stratal.ai.explain.columns import columns_of
from stratal.data.pipelines.model import Run, RunState, Step, StepState
from stratal.kernel.clock import iso

PRODUCER = "urn:stratal:pipelines"
_SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
_FACETS = "https://openlineage.io/spec/facets"
_SCHEMAS = {
    "parent": "1-0-1/ParentRunFacet.json#/$defs/ParentRunFacet",
    "errorMessage": "1-0-1/ErrorMessageRunFacet.json#/$defs/ErrorMessageRunFacet",
    "documentation": "1-0-1/DocumentationJobFacet.json#/$defs/DocumentationJobFacet",
    "sql": "1-0-1/SQLJobFacet.json#/$defs/SQLJobFacet",
    "jobType": "2-0-3/JobTypeJobFacet.json#/$defs/JobTypeJobFacet",
    "version": "1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet",
    "columnLineage": "1-2-0/ColumnLineageDatasetFacet.json#/$defs/ColumnLineageDatasetFacet",
    "dataQualityAssertions": "1-0-1/DataQualityAssertionsDatasetFacet.json#/$defs/DataQualityAssertionsDatasetFacet",
    "outputStatistics": "1-0-2/OutputStatisticsOutputDatasetFacet.json#/$defs/OutputStatisticsOutputDatasetFacet",
}
_ENDS = {
    "succeeded": "COMPLETE",
    "cached": "COMPLETE",
    "failed": "FAIL",
    "cancelled": "ABORT",
    "skipped": "ABORT",
}
Json = dict[str, Any]


def events(
    run: Run,
    steps: Sequence[Step],
    queries: Mapping[tuple[int, str], str],
    schemas: Mapping[str, Sequence[str]],
) -> Iterator[Json]:
    """The events of a run in the order of their times. `queries` are those that made tables, by step and table."""
    if run.replay_of is not None or run.started_at is None:
        return
    found = [_event(run, None, "START", run.started_at, {}, [], [])]
    for step in steps:
        if step.started_at is None or step.state in {StepState.CACHED, StepState.WAITING}:
            continue
        found.append(_event(run, step, "START", step.started_at, {}, [], []))
        if step.state.ended and step.ended_at is not None:
            inputs = [_read(run, read) for read in step.reads]
            outputs = [_written(run, step, write, queries, schemas) for write in step.writes]
            facets = (
                {"errorMessage": {"message": step.error, "programmingLanguage": "python"}}
                if step.error
                else {}
            )
            found += _models(run, step, step.ended_at, inputs, outputs)
            found.append(_event(run, step, _ENDS[step.state.value], step.ended_at, facets, inputs, outputs))
    if run.state.ended and run.ended_at is not None:
        failed = {"errorMessage": {"message": run.reason, "programmingLanguage": "python"}}
        facets = failed if run.state is RunState.FAILED else {}
        found.append(_event(run, None, _ENDS[run.state.value], run.ended_at, facets, [], []))
    yield from sorted(found, key=lambda event: str(event["eventTime"]))


def _models(run: Run, step: Step, at: int, inputs: Sequence[Json], outputs: Sequence[Json]) -> Iterator[Json]:
    """An event for each model that was built: of the tables that it is made of, its step's own or what that read."""
    before = {one["name"]: one for one in inputs}
    known = {**before, **{one["name"]: one for one in outputs}}
    shown = {one["name"]: one for one in outputs}
    for model in step.models:
        if model["state"] == "skipped":
            continue
        words = {"errorMessage": {"message": str(model["words"]), "programmingLanguage": "sql"}}
        of = {name: before if name == model["table"] else known for name in model["reads"]}
        read = [_as_input(found.get(name) or _dataset(run.project, name, {})) for name, found in of.items()]
        made = [shown[model["table"]]] if model["table"] in shown else []
        facets = words if model["state"] == "failed" else {}
        kind = _ENDS[str(model["state"])]
        yield _event(run, step, kind, at, facets, read, made, model=str(model["name"]))


def _as_input(dataset: Json) -> Json:
    """A table that the step made itself, where another model of it reads it: its version, not how it was made."""
    version = {name: facet for name, facet in dataset["facets"].items() if name == "version"}
    return {"namespace": dataset["namespace"], "name": dataset["name"], "facets": version}


def _event(
    run: Run,
    step: Step | None,
    kind: str,
    at: int,
    facets: Json,
    inputs: list[Json],
    outputs: list[Json],
    *,
    model: str = "",
) -> Json:
    job: Json = {"jobType": {"processingType": "BATCH", "integration": "STRATAL", "jobType": "PIPELINE"}}
    told = dict(facets)
    name = run.pipeline or run.file
    if step is not None:
        job["jobType"]["jobType"] = "STEP"
        told["parent"] = {"run": {"runId": _id(run, None)}, "job": {"namespace": run.project, "name": name}}
        if step.doc:
            job["documentation"] = {"description": step.doc}
        name = f"{name}.{step.name}"
        if model:
            job["jobType"]["jobType"] = "MODEL"
            told["parent"] = {
                "run": {"runId": _id(run, step)},
                "job": {"namespace": run.project, "name": name},
            }
            job.pop("documentation", None)
            name = f"{name}.{model}"
    elif run.doc:
        job["documentation"] = {"description": run.doc}
    return {
        "eventType": kind,
        "eventTime": iso(at),
        "producer": PRODUCER,
        "schemaURL": _SPEC,
        "run": {"runId": _id(run, step, model), "facets": _faceted(told)},
        "job": {"namespace": run.project, "name": name, "facets": _faceted(job)},
        "inputs": inputs,
        "outputs": outputs,
    }


def _id(run: Run, step: Step | None, model: str = "") -> str:
    """The same each time it is asked for."""
    place = f"stratal:{run.project_id}/{run.id}" + (f"/{step.id}.{step.attempt}" if step is not None else "")
    place += f"/{model}" if model else ""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, place))


def _read(run: Run, read: Mapping[str, Any]) -> Json:
    if read["kind"] == "object":
        bucket, _, key = str(read["name"]).partition("/")
        return _dataset(f"s3://{bucket}", key, {"version": {"datasetVersion": str(read["version"])}})
    version = str(read["version"]).rpartition("@")[2]
    return _dataset(run.project, str(read["name"]), {"version": {"datasetVersion": version}})


def _written(
    run: Run,
    step: Step,
    write: Mapping[str, Any],
    queries: Mapping[tuple[int, str], str],
    schemas: Mapping[str, Sequence[str]],
) -> Json:
    name = str(write["table"])
    facets: Json = {"version": {"datasetVersion": str(write["snapshot"])}}
    text = queries.get((step.id, name))
    columns = columns_of(text, schemas) if text is not None else None
    if columns:
        facets["columnLineage"] = {
            "fields": {
                column: {
                    "inputFields": [
                        {"namespace": run.project, "name": table, "field": source}
                        for table, source in sources
                    ]
                }
                for column, sources in columns.items()
            }
        }
    checked = [check for check in step.checks if check["table"] == name]
    if checked:
        facets["dataQualityAssertions"] = {
            "assertions": [{"assertion": check["check"], "success": check["passed"]} for check in checked]
        }
    made = _dataset(run.project, name, facets)
    made["outputFacets"] = _faceted({"outputStatistics": {"rowCount": int(write["rows"])}})
    return made


def _dataset(namespace: str, name: str, facets: Json) -> Json:
    return {"namespace": namespace, "name": name, "facets": _faceted(facets)}


def _faceted(facets: Mapping[str, Json]) -> Json:
    return {
        name: {"_producer": PRODUCER, "_schemaURL": f"{_FACETS}/{_SCHEMAS[name]}", **facet}
        for name, facet in facets.items()
    }
