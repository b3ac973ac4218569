"""Registered models and their versions."""

from collections.abc import Sequence

from stratal.ai.models.model import ModelVersion, RegisteredModel
from stratal.ai.models.pinning import NewVersion
from stratal.ai.models.registered import RegisteredModels
from stratal.ai.models.registry import Models
from stratal.gateway.mlflow.wire import Call, Json, Routes, key_values, with_token


class RegistryRoutes:
    def __init__(self, names: RegisteredModels, versions: Models) -> None:
        self._names = names
        self._versions = versions

    def routes(self) -> Routes:
        return {
            ("POST", "mlflow/registered-models/create"): self.create_model,
            ("GET", "mlflow/registered-models/get"): self.get_model,
            ("POST", "mlflow/registered-models/rename"): self.rename_model,
            ("PATCH", "mlflow/registered-models/update"): self.update_model,
            ("DELETE", "mlflow/registered-models/delete"): self.delete_model,
            ("GET", "mlflow/registered-models/search"): self.search_models,
            ("POST", "mlflow/registered-models/get-latest-versions"): self.latest_versions,
            ("GET", "mlflow/registered-models/get-latest-versions"): self.latest_versions,
            ("POST", "mlflow/registered-models/set-tag"): self.set_model_tag,
            ("DELETE", "mlflow/registered-models/delete-tag"): self.delete_model_tag,
            ("POST", "mlflow/registered-models/alias"): self.set_alias,
            ("GET", "mlflow/registered-models/alias"): self.get_by_alias,
            ("DELETE", "mlflow/registered-models/alias"): self.delete_alias,
            ("POST", "mlflow/model-versions/create"): self.create_version,
            ("GET", "mlflow/model-versions/get"): self.get_version,
            ("PATCH", "mlflow/model-versions/update"): self.update_version,
            ("DELETE", "mlflow/model-versions/delete"): self.delete_version,
            ("GET", "mlflow/model-versions/search"): self.search_versions,
            ("GET", "mlflow/model-versions/get-download-uri"): self.download_uri,
            ("POST", "mlflow/model-versions/transition-stage"): self.transition,
            ("POST", "mlflow/model-versions/set-tag"): self.set_version_tag,
            ("DELETE", "mlflow/model-versions/delete-tag"): self.delete_version_tag,
        }

    # -- registered models -----------------------------------------------------------------------

    async def create_model(self, call: Call) -> Json:
        f = call.fields
        made = await self._names.create(
            call.who,
            call.project_id,
            f.required("name"),
            description=f.text("description"),
            tags=dict(f.pairs("tags")),
        )
        return {"registered_model": _model(made)}

    async def get_model(self, call: Call) -> Json:
        found = await self._names.get(call.who, call.project_id, call.fields.required("name"))
        return {"registered_model": _model(found)}

    async def rename_model(self, call: Call) -> Json:
        f = call.fields
        done = await self._names.rename(call.who, call.project_id, f.required("name"), f.required("new_name"))
        return {"registered_model": _model(done)}

    async def update_model(self, call: Call) -> Json:
        f = call.fields
        done = await self._names.describe(
            call.who, call.project_id, f.required("name"), f.text("description")
        )
        return {"registered_model": _model(done)}

    async def delete_model(self, call: Call) -> Json:
        await self._names.delete(call.who, call.project_id, call.fields.required("name"))
        return {}

    async def search_models(self, call: Call) -> Json:
        f = call.fields
        page = await self._names.search(
            call.who,
            call.project_id,
            text=f.text("filter"),
            order_by=f.texts("order_by"),
            limit=f.integer("max_results", 100),
            token=f.text("page_token"),
        )
        return with_token({"registered_models": [_model(one) for one in page.items]}, page.next_token)

    async def latest_versions(self, call: Call) -> Json:
        f = call.fields
        stages = {stage.lower() for stage in f.texts("stages")}
        found = await self._names.get(call.who, call.project_id, f.required("name"))
        wanted = [one for one in found.latest if not stages or one.stage.lower() in stages]
        return {"model_versions": _versions(wanted)}

    async def set_model_tag(self, call: Call) -> Json:
        f = call.fields
        await self._names.set_tag(
            call.who, call.project_id, f.required("name"), f.required("key"), f.text("value")
        )
        return {}

    async def delete_model_tag(self, call: Call) -> Json:
        f = call.fields
        await self._names.delete_tag(call.who, call.project_id, f.required("name"), f.required("key"))
        return {}

    async def set_alias(self, call: Call) -> Json:
        f = call.fields
        await self._names.set_alias(
            call.who, call.project_id, f.required("name"), f.required("alias"), _number(call)
        )
        return {}

    async def get_by_alias(self, call: Call) -> Json:
        f = call.fields
        found = await self._versions.get_by_alias(
            call.who, call.project_id, f.required("name"), f.required("alias")
        )
        return {"model_version": _version(found)}

    async def delete_alias(self, call: Call) -> Json:
        f = call.fields
        await self._names.delete_alias(call.who, call.project_id, f.required("name"), f.required("alias"))
        return {}

    # -- versions --------------------------------------------------------------------------------

    async def create_version(self, call: Call) -> Json:
        f = call.fields
        new = NewVersion(
            f.required("source"),
            f.text("run_id"),
            f.text("run_link"),
            f.text("model_id"),
            f.text("description"),
            dict(f.pairs("tags")),
        )
        made = await self._versions.create(call.who, call.project_id, f.required("name"), new)
        return {"model_version": _version(made)}

    async def get_version(self, call: Call) -> Json:
        name = call.fields.required("name")
        found = await self._versions.get(call.who, call.project_id, name, _number(call))
        return {"model_version": _version(found)}

    async def update_version(self, call: Call) -> Json:
        f = call.fields
        done = await self._versions.describe(
            call.who, call.project_id, f.required("name"), _number(call), f.text("description")
        )
        return {"model_version": _version(done)}

    async def delete_version(self, call: Call) -> Json:
        name = call.fields.required("name")
        await self._versions.delete(call.who, call.project_id, name, _number(call))
        return {}

    async def search_versions(self, call: Call) -> Json:
        f = call.fields
        page = await self._versions.search(
            call.who,
            call.project_id,
            text=f.text("filter"),
            order_by=f.texts("order_by"),
            limit=f.integer("max_results", 10_000),
            token=f.text("page_token"),
        )
        return with_token({"model_versions": _versions(page.items)}, page.next_token)

    async def download_uri(self, call: Call) -> Json:
        """The version's own, pinned files: what the run holds by now does not matter."""
        name = call.fields.required("name")
        location = await self._versions.download_location(call.who, call.project_id, name, _number(call))
        return {"artifact_uri": f"mlflow-artifacts:/{location}"}

    async def transition(self, call: Call) -> Json:
        f = call.fields
        done = await self._versions.transition(
            call.who,
            call.project_id,
            f.required("name"),
            _number(call),
            f.required("stage"),
            archive=f.flag("archive_existing_versions"),
        )
        return {"model_version": _version(done)}

    async def set_version_tag(self, call: Call) -> Json:
        f = call.fields
        await self._versions.set_tag(
            call.who,
            call.project_id,
            f.required("name"),
            _number(call),
            f.required("key"),
            f.text("value"),
        )
        return {}

    async def delete_version_tag(self, call: Call) -> Json:
        f = call.fields
        await self._versions.delete_tag(
            call.who, call.project_id, f.required("name"), _number(call), f.required("key")
        )
        return {}


def _number(call: Call) -> str:
    """The version asked for, sent as text or as a number."""
    return call.fields.word("version") or call.fields.required("version")


def _model(model: RegisteredModel) -> Json:
    answer: Json = {
        "name": model.name,
        "creation_timestamp": model.created_at,
        "last_updated_timestamp": model.updated_at,
        "user_id": model.created_by,
        "latest_versions": _versions(model.latest),
        "tags": key_values(model.tags),
        "aliases": [{"alias": alias, "version": str(version)} for alias, version in model.aliases.items()],
    }
    return {**answer, "description": model.description} if model.description else answer


def _versions(versions: Sequence[ModelVersion]) -> list[Json]:
    return [_version(version) for version in versions]


def _version(version: ModelVersion) -> Json:
    answer: Json = {
        "name": version.name,
        "version": str(version.version),
        "creation_timestamp": version.created_at,
        "last_updated_timestamp": version.updated_at,
        "user_id": version.created_by,
        "current_stage": version.stage,
        "source": version.source,
        "status": "READY",
        "tags": key_values(version.tags),
        "aliases": list(version.aliases),
    }
    for name, value in (
        ("description", version.description),
        ("run_id", version.run_id),
        ("run_link", version.run_link),
        ("model_id", version.logged_model_id),
    ):
        if value:
            answer[name] = value
    return answer
