"""Experiments and runs."""

from collections.abc import Sequence

from stratal.collab.experiments import Experiments
from stratal.collab.metrics import Point, downsample
from stratal.collab.model import Dataset, Experiment, Metric, Run, RunStatus, View
from stratal.collab.run_search import Query, RunSearch
from stratal.collab.runs import Batch, NewRun, Runs
from stratal.gateway.mlflow.wire import Call, Fields, Json, Routes, key_values, number, with_token
from stratal.kernel.errors import Invalid

MAX_BATCH_BYTES = 1_000_000
_STATUS = {str(i): status for i, status in enumerate(RunStatus, start=1)}
_VIEWS = {str(i): view for i, view in enumerate(View, start=1)}
_MAX_BULK_RUNS = 100
_MAX_BULK_POINTS = 25_000


class Tracking:
    def __init__(self, experiments: Experiments, runs: Runs, search: RunSearch) -> None:
        self._experiments = experiments
        self._runs = runs
        self._search = search

    def routes(self) -> Routes:
        return {
            ("POST", "mlflow/experiments/create"): self.create_experiment,
            ("GET", "mlflow/experiments/get"): self.get_experiment,
            ("GET", "mlflow/experiments/get-by-name"): self.get_experiment_by_name,
            ("POST", "mlflow/experiments/search"): self.search_experiments,
            ("GET", "mlflow/experiments/search"): self.search_experiments,
            ("POST", "mlflow/experiments/update"): self.update_experiment,
            ("POST", "mlflow/experiments/delete"): self.delete_experiment,
            ("POST", "mlflow/experiments/restore"): self.restore_experiment,
            ("POST", "mlflow/experiments/set-experiment-tag"): self.set_experiment_tag,
            ("POST", "mlflow/experiments/delete-experiment-tag"): self.delete_experiment_tag,
            ("POST", "mlflow/runs/create"): self.create_run,
            ("GET", "mlflow/runs/get"): self.get_run,
            ("POST", "mlflow/runs/update"): self.update_run,
            ("POST", "mlflow/runs/delete"): self.delete_run,
            ("POST", "mlflow/runs/restore"): self.restore_run,
            ("POST", "mlflow/runs/search"): self.search_runs,
            ("POST", "mlflow/runs/log-metric"): self.log_metric,
            ("POST", "mlflow/runs/log-parameter"): self.log_param,
            ("POST", "mlflow/runs/set-tag"): self.set_tag,
            ("POST", "mlflow/runs/delete-tag"): self.delete_tag,
            ("POST", "mlflow/runs/log-batch"): self.log_batch,
            ("POST", "mlflow/runs/log-model"): self.log_model,
            ("POST", "mlflow/runs/log-inputs"): self.log_inputs,
            ("POST", "mlflow/runs/outputs"): self.log_outputs,
            ("GET", "mlflow/metrics/get-history"): self.history,
            ("GET", "mlflow/metrics/get-history-bulk"): self.history_bulk,
            ("GET", "mlflow/metrics/get-history-bulk-interval"): self.history_interval,
        }

    # -- experiments -----------------------------------------------------------------------------

    async def create_experiment(self, call: Call) -> Json:
        f = call.fields
        place = f.text("artifact_location")
        if place and not place.startswith("mlflow-artifacts:"):
            raise Invalid(
                f"Artifacts of this platform lie in its own store, not at {place[:200]!r}.",
                hint="Leave artifact_location out.",
                reason="bad_artifact_location",
            )
        made = await self._experiments.create(
            call.who, call.project_id, f.required("name"), dict(f.pairs("tags"))
        )
        return {"experiment_id": made.id}

    async def get_experiment(self, call: Call) -> Json:
        found = await self._experiments.get(call.who, call.project_id, call.fields.required("experiment_id"))
        return {"experiment": _experiment(found)}

    async def get_experiment_by_name(self, call: Call) -> Json:
        name = call.fields.required("experiment_name")
        return {
            "experiment": _experiment(await self._experiments.get_by_name(call.who, call.project_id, name))
        }

    async def search_experiments(self, call: Call) -> Json:
        f = call.fields
        page = await self._experiments.search(
            call.who,
            call.project_id,
            text=f.text("filter"),
            view=_view(f, "view_type"),
            order_by=f.texts("order_by"),
            limit=f.integer("max_results", 1000),
            token=f.text("page_token"),
        )
        return with_token({"experiments": [_experiment(one) for one in page.items]}, page.next_token)

    async def update_experiment(self, call: Call) -> Json:
        f = call.fields
        new_name = f.text("new_name")
        if new_name:
            await self._experiments.rename(call.who, call.project_id, f.required("experiment_id"), new_name)
        return {}

    async def delete_experiment(self, call: Call) -> Json:
        await self._experiments.delete(call.who, call.project_id, call.fields.required("experiment_id"))
        return {}

    async def restore_experiment(self, call: Call) -> Json:
        await self._experiments.restore(call.who, call.project_id, call.fields.required("experiment_id"))
        return {}

    async def set_experiment_tag(self, call: Call) -> Json:
        f = call.fields
        await self._experiments.set_tag(
            call.who, call.project_id, f.required("experiment_id"), f.required("key"), f.text("value")
        )
        return {}

    async def delete_experiment_tag(self, call: Call) -> Json:
        f = call.fields
        await self._experiments.delete_tag(
            call.who, call.project_id, f.required("experiment_id"), f.required("key")
        )
        return {}

    # -- runs ------------------------------------------------------------------------------------

    async def create_run(self, call: Call) -> Json:
        f = call.fields
        new = NewRun(
            f.text("run_name"), f.text("user_id"), f.maybe_integer("start_time"), dict(f.pairs("tags"))
        )
        run = await self._runs.create(call.who, call.project_id, f.text("experiment_id", "0") or "0", new)
        return {"run": _run(run)}

    async def get_run(self, call: Call) -> Json:
        return {"run": _run(await self._runs.get(call.who, call.project_id, _run_id(call.fields)))}

    async def update_run(self, call: Call) -> Json:
        f = call.fields
        run = await self._runs.update(
            call.who,
            call.project_id,
            _run_id(f),
            status=_status(f),
            end_time=f.maybe_integer("end_time"),
            name=f.text("run_name"),
        )
        return {"run_info": _info(run)}

    async def delete_run(self, call: Call) -> Json:
        await self._runs.delete(call.who, call.project_id, _run_id(call.fields))
        return {}

    async def restore_run(self, call: Call) -> Json:
        await self._runs.restore(call.who, call.project_id, _run_id(call.fields))
        return {}

    async def search_runs(self, call: Call) -> Json:
        f = call.fields
        query = Query(
            f.texts("experiment_ids"),
            f.text("filter"),
            _view(f, "run_view_type"),
            f.texts("order_by"),
            f.integer("max_results", 1000),
            f.text("page_token"),
        )
        page = await self._search.search(call.who, call.project_id, query)
        return with_token({"runs": [_run(run) for run in page.items]}, page.next_token)

    # -- logging ---------------------------------------------------------------------------------

    async def log_metric(self, call: Call) -> Json:
        await self._log(call, Batch(metrics=[_metric(call.fields)]))
        return {}

    async def log_param(self, call: Call) -> Json:
        f = call.fields
        await self._log(call, Batch(params=[(f.required("key"), f.text("value"))]))
        return {}

    async def set_tag(self, call: Call) -> Json:
        f = call.fields
        await self._log(call, Batch(tags=[(f.required("key"), f.text("value"))]))
        return {}

    async def log_batch(self, call: Call) -> Json:
        f = call.fields
        await self._log(
            call, Batch([_metric(m) for m in f.items("metrics")], f.pairs("params"), f.pairs("tags"))
        )
        return {}

    async def _log(self, call: Call, batch: Batch) -> None:
        await self._runs.log(call.who, call.project_id, _run_id(call.fields), batch)

    async def delete_tag(self, call: Call) -> Json:
        f = call.fields
        await self._runs.delete_tag(call.who, call.project_id, _run_id(f), f.required("key"))
        return {}

    async def log_model(self, call: Call) -> Json:
        f = call.fields
        await self._runs.record_model(call.who, call.project_id, _run_id(f), f.required("model_json"))
        return {}

    async def log_inputs(self, call: Call) -> Json:
        f = call.fields
        read = [_dataset_of(item) for item in f.items("datasets")]
        models = [item.required("model_id") for item in f.items("models")]
        await self._runs.log_inputs(call.who, call.project_id, _run_id(f), read, models)
        return {}

    async def log_outputs(self, call: Call) -> Json:
        f = call.fields
        made = [(item.required("model_id"), item.integer("step", 0)) for item in f.items("models")]
        await self._runs.log_outputs(call.who, call.project_id, _run_id(f), made)
        return {}

    # -- histories -------------------------------------------------------------------------------

    async def history(self, call: Call) -> Json:
        f = call.fields
        key = f.required("metric_key")
        page = await self._runs.history(
            call.who,
            call.project_id,
            _run_id(f),
            key,
            limit=f.maybe_integer("max_results"),
            token=f.text("page_token"),
        )
        return with_token({"metrics": [_point(key, point) for point in page.items]}, page.next_token)

    async def history_bulk(self, call: Call) -> Json:
        f = call.fields
        key = f.required("metric_key")
        left = min(f.integer("max_results", _MAX_BULK_POINTS), _MAX_BULK_POINTS)
        metrics: list[Json] = []
        for run_id in sorted(_bulk_ids(f)):
            column = await self._runs.series(call.who, call.project_id, run_id, key)
            points = column.points(0, left - len(metrics))
            metrics += [{**_point(key, point), "run_id": run_id} for point in points]
        return {"metrics": metrics}

    async def history_interval(self, call: Call) -> Json:
        """At most `max_results` points of each run, evenly chosen between two steps."""
        f = call.fields
        key = f.required("metric_key")
        most = f.integer("max_results", 320)
        first, last = f.maybe_integer("start_step"), f.maybe_integer("end_step")
        if (first is None) != (last is None):
            raise Invalid("start_step and end_step are given together or not at all.")
        if not 1 <= most <= 2500:
            raise Invalid(f"max_results must be between 1 and 2500, not {most}.")
        metrics: list[Json] = []
        for run_id in sorted(_bulk_ids(f)):
            column = await self._runs.series(call.who, call.project_id, run_id, key)
            if first is not None and last is not None:
                column = column.between(first, last)
            metrics += [{**_point(key, point), "run_id": run_id} for point in downsample(column, most)]
        return {"metrics": metrics}


def _run_id(fields: Fields) -> str:
    return fields.required("run_id", "run_uuid")


def _bulk_ids(fields: Fields) -> list[str]:
    ids = fields.texts("run_ids") or fields.texts("run_id")
    if not 1 <= len(ids) <= _MAX_BULK_RUNS:
        raise Invalid(f"Give 1 to {_MAX_BULK_RUNS} run_ids; these are {len(ids)}.")
    return ids


def _status(fields: Fields) -> RunStatus | None:
    value = fields.word("status")
    if not value:
        return None
    found = _STATUS.get(value) or RunStatus.__members__.get(value.upper())
    if found is None:
        raise Invalid(f"{value[:60]!r} is not a run's status.", hint=f"There are {', '.join(RunStatus)}.")
    return found


def _view(fields: Fields, name: str) -> View:
    value = fields.word(name)
    if not value:
        return View.ACTIVE_ONLY
    found = _VIEWS.get(value) or View.__members__.get(value.upper())
    if found is None:
        raise Invalid(f"{value[:60]!r} is not a view type.", hint=f"There are {', '.join(View)}.")
    return found


def _metric(fields: Fields) -> Metric:
    timestamp = fields.maybe_integer("timestamp")
    if timestamp is None:
        raise Invalid("Missing value for required parameter 'timestamp'.", reason="missing_value")
    return Metric(
        fields.required("key"),
        fields.number("value"),
        timestamp,
        fields.integer("step", 0),
        fields.text("model_id"),
        fields.text("dataset_name"),
        fields.text("dataset_digest"),
    )


def _dataset_of(fields: Fields) -> Dataset:
    said = fields.message("dataset")
    return Dataset(
        said.required("name"),
        said.required("digest"),
        said.required("source_type"),
        said.text("source"),
        said.optional("schema"),
        said.optional("profile"),
        dict(fields.pairs("tags")),
    )


def _experiment(experiment: Experiment) -> Json:
    return {
        "experiment_id": experiment.id,
        "name": experiment.name,
        "artifact_location": experiment.artifact_location,
        "lifecycle_stage": experiment.lifecycle,
        "creation_time": experiment.created_at,
        "last_update_time": experiment.updated_at,
        "tags": key_values(experiment.tags),
    }


def _info(run: Run) -> Json:
    info: Json = {
        "run_id": run.id,
        "run_uuid": run.id,
        "run_name": run.name,
        "experiment_id": run.experiment_id,
        "user_id": run.user_id,
        "status": run.status.value,
        "start_time": run.start_time,
        "artifact_uri": run.artifact_uri,
        "lifecycle_stage": run.lifecycle,
    }
    return info if run.end_time is None else {**info, "end_time": run.end_time}


def _run(run: Run) -> Json:
    return {
        "info": _info(run),
        "data": {
            "metrics": [metric_json(metric) for metric in run.metrics],
            "params": key_values(run.params),
            "tags": key_values(run.tags),
        },
        "inputs": {
            "dataset_inputs": _datasets(run.datasets),
            "model_inputs": [{"model_id": model} for model in run.input_models],
        },
        "outputs": {
            "model_outputs": [{"model_id": model, "step": step} for model, step in run.output_models]
        },
    }


def _datasets(datasets: Sequence[Dataset]) -> list[Json]:
    return [
        {
            "dataset": {
                "name": dataset.name,
                "digest": dataset.digest,
                "source_type": dataset.source_type,
                "source": dataset.source,
                **({} if dataset.schema is None else {"schema": dataset.schema}),
                **({} if dataset.profile is None else {"profile": dataset.profile}),
            },
            "tags": key_values(dataset.tags),
        }
        for dataset in datasets
    ]


def metric_json(metric: Metric) -> Json:
    """A metric's newest value, with what it was measured on where that was said."""
    answer: Json = {
        "key": metric.key,
        "value": number(metric.value),
        "timestamp": metric.timestamp,
        "step": metric.step,
    }
    if metric.model_id:
        answer["model_id"] = metric.model_id
    if metric.dataset_name:
        answer |= {"dataset_name": metric.dataset_name, "dataset_digest": metric.dataset_digest}
    return answer


def _point(key: str, point: Point) -> Json:
    return {"key": key, "value": number(point.value), "timestamp": point.timestamp, "step": point.step}
