"""The pages, one module per noun; `PAGES` is every address with what answers it."""

from stratal.console.pages import (
    endpoints,
    jobs,
    models,
    nodes,
    objects,
    overview,
    predictions,
    runs,
    search,
    tables,
)
from stratal.console.view import Page

PAGES: dict[str, Page] = {
    "/": overview.home,
    "/projects/{project}": overview.overview,
    "/projects/{project}/jobs": jobs.jobs,
    "/projects/{project}/jobs/{job}": jobs.job,
    "/projects/{project}/jobs/{job}/code": jobs.code,
    "/projects/{project}/arrays/{array}": jobs.array,
    "/projects/{project}/nodes": nodes.nodes,
    "/projects/{project}/buckets": objects.buckets,
    "/projects/{project}/buckets/{bucket}": objects.bucket,
    "/projects/{project}/tables": tables.tables,
    "/projects/{project}/tables/{table}": tables.table,
    "/projects/{project}/tables/{table}/preview": tables.preview,
    "/projects/{project}/tables/{table}/snapshots/{snapshot}": tables.snapshot,
    "/projects/{project}/endpoints": endpoints.endpoints,
    "/projects/{project}/endpoints/{endpoint}": endpoints.endpoint,
    "/projects/{project}/runs": runs.runs,
    "/projects/{project}/runs/{run}": runs.run,
    "/projects/{project}/models": models.models,
    "/projects/{project}/models/{model}": models.model,
    "/projects/{project}/models/{model}/versions/{version}": models.version,
    "/projects/{project}/models/{model}/versions/{version}/proof": models.proof,
    "/runs/{run}": runs.anywhere,
    "/jobs/{job}": jobs.anywhere,
    "/projects/{project}/search": search.search,
    "/projects/{project}/why": predictions.ask,
    "/predictions/{prediction}": predictions.why,
}
