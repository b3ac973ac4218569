"""Logged models."""

from stratal.ai.models.logged import (
    LoggedModel,
    LoggedModels,
    LoggedOrder,
    LoggedStatus,
    NewLoggedModel,
    OnDataset,
)
from stratal.collab.artifacts import Artifacts
from stratal.gateway.mlflow.artifacts import file_infos
from stratal.gateway.mlflow.tracking import metric_json
from stratal.gateway.mlflow.wire import Call, Fields, Json, Routes, key_values, with_token
from stratal.kernel.errors import Invalid

_WIRE_STATUS = {
    LoggedStatus.PENDING: "LOGGED_MODEL_PENDING",
    LoggedStatus.READY: "LOGGED_MODEL_READY",
    LoggedStatus.FAILED: "LOGGED_MODEL_UPLOAD_FAILED",
}
_STATUS = {
    **{wire: status for status, wire in _WIRE_STATUS.items()},
    "1": LoggedStatus.PENDING,
    "2": LoggedStatus.READY,
    "3": LoggedStatus.FAILED,
}


class LoggedModelRoutes:
    def __init__(self, models: LoggedModels, artifacts: Artifacts) -> None:
        self._models = models
        self._artifacts = artifacts

    def routes(self) -> Routes:
        return {
            ("POST", "mlflow/logged-models"): self.create,
            ("POST", "mlflow/logged-models/search"): self.search,
            ("GET", "mlflow/logged-models/{model_id}"): self.get,
            ("PATCH", "mlflow/logged-models/{model_id}"): self.finalize,
            ("DELETE", "mlflow/logged-models/{model_id}"): self.delete,
            ("PATCH", "mlflow/logged-models/{model_id}/tags"): self.set_tags,
            ("DELETE", "mlflow/logged-models/{model_id}/tags/{key}"): self.delete_tag,
            ("POST", "mlflow/logged-models/{model_id}/params"): self.log_params,
            ("GET", "mlflow/logged-models/{model_id}/artifacts/directories"): self.list_artifacts,
        }

    async def create(self, call: Call) -> Json:
        f = call.fields
        new = NewLoggedModel(
            f.text("name"),
            f.text("model_type"),
            f.text("source_run_id"),
            dict(f.pairs("params")),
            dict(f.pairs("tags")),
        )
        made = await self._models.create(call.who, call.project_id, f.text("experiment_id", "0") or "0", new)
        return {"model": _model(made)}

    async def get(self, call: Call) -> Json:
        deleted = call.request.query_params.get("allow_deleted", "").lower() == "true"
        found = await self._models.get(call.who, call.project_id, call.path["model_id"], deleted=deleted)
        return {"model": _model(found)}

    async def finalize(self, call: Call) -> Json:
        said = call.fields.word("status")
        status = _STATUS.get(said)
        if status is None:
            raise Invalid(
                f"{said[:60]!r} is not a logged model's status.",
                hint=f"There are {', '.join(_WIRE_STATUS.values())}.",
            )
        done = await self._models.finalize(call.who, call.project_id, call.path["model_id"], status)
        return {"model": _model(done)}

    async def delete(self, call: Call) -> Json:
        await self._models.delete(call.who, call.project_id, call.path["model_id"])
        return {}

    async def set_tags(self, call: Call) -> Json:
        tags = dict(call.fields.pairs("tags"))
        return {
            "model": _model(
                await self._models.set_tags(call.who, call.project_id, call.path["model_id"], tags)
            )
        }

    async def delete_tag(self, call: Call) -> Json:
        await self._models.delete_tag(call.who, call.project_id, call.path["model_id"], call.path["key"])
        return {}

    async def log_params(self, call: Call) -> Json:
        params = dict(call.fields.pairs("params"))
        await self._models.log_params(call.who, call.project_id, call.path["model_id"], params)
        return {}

    async def search(self, call: Call) -> Json:
        f = call.fields
        page = await self._models.search(
            call.who,
            call.project_id,
            f.texts("experiment_ids"),
            text=f.text("filter"),
            datasets=[_on(item) for item in f.items("datasets")],
            order_by=[_order(item) for item in f.items("order_by")],
            limit=f.integer("max_results", 50),
            token=f.text("page_token"),
        )
        return with_token({"models": [_model(one) for one in page.items]}, page.next_token)

    async def list_artifacts(self, call: Call) -> Json:
        model = await self._models.get(call.who, call.project_id, call.path["model_id"])
        directory = call.fields.text("artifact_directory_path").strip("/")
        location = f"{model.location}/{directory}" if directory else model.location
        _, entries = await self._artifacts.entries(call.who, call.project_id, location)
        return {"root_uri": model.artifact_uri, "files": file_infos(entries)}


def _on(fields: Fields) -> OnDataset:
    return OnDataset(fields.required("dataset_name"), fields.text("dataset_digest"))


def _order(fields: Fields) -> LoggedOrder:
    name, digest = fields.text("dataset_name"), fields.text("dataset_digest")
    if digest and not name:
        raise Invalid("dataset_digest needs a dataset_name beside it.")
    return LoggedOrder(
        fields.required("field_name"),
        fields.flag("ascending", default=True),
        OnDataset(name, digest) if name else None,
    )


def _model(model: LoggedModel) -> Json:
    info: Json = {
        "model_id": model.id,
        "experiment_id": model.experiment_id,
        "name": model.name,
        "creation_timestamp_ms": model.created_at,
        "last_updated_timestamp_ms": model.updated_at,
        "artifact_uri": model.artifact_uri,
        "status": _WIRE_STATUS[model.status],
        "tags": key_values(model.tags),
        "registrations": [{"name": name, "version": str(version)} for name, version in model.registrations],
    }
    if model.model_type:
        info["model_type"] = model.model_type
    if model.source_run_id:
        info["source_run_id"] = model.source_run_id
    return {
        "info": info,
        "data": {
            "params": key_values(model.params),
            "metrics": [{**metric_json(metric), "run_id": run_id} for run_id, metric in model.metrics],
        },
    }
