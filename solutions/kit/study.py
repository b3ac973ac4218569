"""`Study`: what a solution's steps work with. Reads and writes through S3, Iceberg and MLflow; keeps what was measured."""

import base64
import io
import json
import logging
import os
import time
import tomllib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from kit import checks, evidence, fetching

Json = dict[str, Any]
LEAK = "planted_leak"


@dataclass
class Trial:
    """One seed's outcome: measures of the candidate, the baseline and, for generated data, the oracle.

    `keep` is whatever `evaluate` needs of it (predictions, fitted models).
    """

    candidate: dict[str, float]
    baseline: dict[str, float]
    oracle: dict[str, float] = field(default_factory=dict)
    keep: Any = None


class Study:
    """One run of one solution. `size` is ``tiny``, ``default`` or ``full``; `plant` names a planted fault or is empty."""

    def __init__(
        self, folder: Path, *, run: str, bucket: str, size: str, plant: str = "", download: bool = False
    ) -> None:
        self.folder = folder
        self.manifest: Json = tomllib.loads((folder / "solution.toml").read_text())
        self.name = str(self.manifest["name"])
        self.run, self.bucket, self.size, self.plant = run, bucket, size, plant
        self.download = download
        self.found: Json = {
            "sources": [],
            "leakage": [],
            "faults": [],
            "plots": [],
            "subgroups": [],
            "tables": [],
        }
        self.overlap = 0.0
        self._began = time.process_time()

    @property
    def tiny(self) -> bool:
        return self.size == "tiny"

    @property
    def seeds(self) -> list[int]:
        count = 2 if self.tiny else int(self.manifest["run"].get("seeds", 3))
        return list(range(1, count + 1))

    def say(self, text: str) -> None:
        print(text, flush=True)

    # -- data ----------------------------------------------------------------------------------

    def source(
        self, name: str, data: bytes, *, rows: int = 0, suffix: str = "", expected: str | None = None
    ) -> None:
        """Keep a source as it came, in the bucket, and hold it against the checksum in ``solution.toml``.

        `expected` stands in for that of a source that comes with the platform, whose edition is the installation's.
        """
        self._put(f"raw/{name}{suffix}", data)
        self._check_source(name, checks.sha256(data), len(data), rows, expected)
        self._check_fault(checks.sha256(data[:-1] + bytes([data[-1] ^ 1])), checks.sha256(data))

    def downloaded(self, name: str, *, suffix: str = "") -> bytes:
        """Fetch a source from the address that ``solution.toml`` declares, and keep it as `source` does.

        Raises `fetching.NotFetched`. Bytes of another edition are kept, too; then the run is refused, and says so.
        """
        declared = next(s for s in self.manifest["sources"] if s["name"] == name)
        self.say(f"fetching {declared['url']}")
        data = fetching.fetched(str(declared["url"]))
        self.source(name, data, suffix=suffix)
        return data

    def source_frame(self, name: str, frame: pd.DataFrame) -> None:
        """As `source`, for a table that a library or a generator made: the checksum is of its values, column by column."""
        target = io.BytesIO()
        pq.write_table(_arrow(frame), target)
        self._put(f"raw/{name}.parquet", target.getvalue())
        self._check_source(name, checks.digest_of(frame), target.tell(), len(frame))
        first = frame.columns[0]
        altered = frame.assign(**{first: frame[first].iloc[::-1].to_numpy()})
        self._check_fault(checks.digest_of(altered), checks.digest_of(frame))

    def write(self, table: str, frame: pd.DataFrame) -> None:
        """Make `frame` the contents of the Iceberg table ``namespace.name``."""
        rows = _arrow(frame)
        catalog = self._catalog()
        namespace = table.rpartition(".")[0]
        catalog.create_namespace_if_not_exists(namespace)
        if catalog.table_exists(table):
            catalog.drop_table(table)
        made = catalog.create_table(table, schema=rows.schema)
        made.append(rows)
        self.say(f"wrote {table}: {len(frame):,} rows, {frame.shape[1]} columns")

    def read(self, table: str, columns: Sequence[str] = ("*",)) -> pd.DataFrame:
        """The table's rows. With a planted leak or planted labels, those of the target's table carry the fault."""
        frame = self.pristine(table, columns)
        target = self.manifest.get("target")
        if target is not None and target["table"] == table and target["column"] in frame:
            if self.plant == "leak":
                frame = leaked(frame, target["column"])
            if self.plant == "labels":
                frame = shuffled(frame, target["column"])
        return frame

    def pristine(self, table: str, columns: Sequence[str] = ("*",)) -> pd.DataFrame:
        found = self._catalog().load_table(table)
        snapshot = found.current_snapshot()
        self.found.setdefault("snapshots", {})[table] = str(snapshot.snapshot_id) if snapshot else ""
        frame: pd.DataFrame = found.scan(selected_fields=tuple(columns)).to_pandas()
        return frame

    def fetch(self, key: str) -> bytes:
        """An object of the solution's bucket."""
        with self._s3().open_input_stream(f"{self.bucket}/{key}") as stream:
            data: bytes = stream.read()
        return data

    def store(self, key: str, data: bytes) -> None:
        """Keep an object in the solution's bucket, below ``work/``."""
        self._put(f"work/{key}", data)

    def native(self, method: str, path: str, body: Json | None = None) -> Any:
        """Ask the platform's own API, below the project's address."""
        address = f"{os.environ['STRATAL_URL']}/api/v1/projects/{quote(os.environ['STRATAL_PROJECT'], safe='')}{path}"
        request = Request(address, None if body is None else json.dumps(body).encode(), method=method)  # noqa: S310
        request.add_header("Authorization", f"Bearer {os.environ['STRATAL_API_KEY']}")
        request.add_header("Content-Type", "application/json")
        with urlopen(request, timeout=120) as answer:  # noqa: S310 - the platform's own address
            return json.loads(answer.read())

    # -- what is measured ----------------------------------------------------------------------

    def leakage(self, *found: Json) -> None:
        """Keep leakage checks (see `checks`)."""
        self.found["leakage"] += found

    def no_single_feature(
        self,
        frame: pd.DataFrame,
        target: str,
        *,
        limit: float,
        without: Sequence[str] = (),
        kind: str = "class",
    ) -> None:
        """Check that no feature alone tells the target, and that a planted one is noticed."""
        real = checks.single_feature(frame, target, limit=limit, without=without, kind=kind)
        self.leakage(real)
        planted = checks.single_feature(
            leaked(frame, target), target, limit=limit, without=without, kind=kind
        )
        self.fault("a feature that holds the answer", planted)

    def labels_are_the_sources(self) -> None:
        """Check the labels trained on against the source's, and that shuffled ones are noticed."""
        target = self.manifest["target"]
        key, column = target["key"], target["column"]
        source = self.pristine(target["source"], [key, column])
        used = self.read(target["table"], [key, column])
        self.found["labels"] = checks.labels(used, source, key, column)
        self.fault("shuffled labels", checks.labels(shuffled(source, column), source, key, column))

    def baseline_knows_something(
        self, measure: Callable[[Any, Any], float], truth: Any, answers: Any, *, better: str
    ) -> None:
        """Check that the baseline is no straw man, and that a broken one is noticed.

        At a level of 5 % one answer order in twenty looks as if it knew something: most of five must be noticed.
        """
        answers = np.asarray(answers)
        orders = [np.random.default_rng(seed).permutation(answers) for seed in range(1, 6)]
        told = [checks.beats_itself_shuffled(measure, truth, order, better=better) for order in orders]
        broken = sorted(told, key=lambda found: bool(found["passed"]))[len(told) // 2]
        self.fault("a broken baseline", broken)
        whole = checks.beats_itself_shuffled(measure, truth, answers, better=better)
        self.found["baseline"] = broken if self.plant == "baseline" else whole

    def fault(self, what: str, found: Json) -> None:
        """Keep that a check was run on a planted `what`, and whether it noticed."""
        self.found["faults"].append({"what": what, "noticed": not found["passed"], "said": found["said"]})

    def number(
        self,
        name: str,
        values: float | Sequence[float],
        *,
        baseline: Sequence[float] | None = None,
        low: float | None = None,
        high: float | None = None,
    ) -> None:
        """A number that gates or readers need beside the trials' own. `solution.toml` says its title and badge.

        Several values get an interval; with the `baseline`'s, in the same order, so does their difference.
        """
        if isinstance(values, int | float | np.floating):
            told: Json = {"values": [float(values)], "mean": float(values), "low": low, "high": high}
        else:
            told = evidence.interval(values)
        kept = self.found.setdefault("numbers", {})[name] = {"candidate": told}
        if baseline is not None and not isinstance(values, int | float | np.floating):
            kept["baseline"] = evidence.interval(baseline)
            kept["difference"] = evidence.interval([a - b for a, b in zip(values, baseline, strict=True)])

    def subgroups(self, rows: Sequence[Json]) -> None:
        self.found["subgroups"] += rows

    def plot(
        self,
        name: str,
        title: str,
        svg: str,
        *,
        caption: str = "",
        badge: str = "real",
        picture: bool = False,
    ) -> None:
        """Keep a plot; the one that is the `picture` stands for the solution in the gallery."""
        self.found["plots"].append(
            {"name": name, "title": title, "svg": svg, "caption": caption, "badge": badge, "picture": picture}
        )

    def table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, badge: str = "real"
    ) -> None:
        """Keep a small table for the report."""
        plain = [[_plain(cell) for cell in row] for row in rows]
        self.found["tables"].append({"title": title, "columns": list(columns), "rows": plain, "badge": badge})

    # -- steps ---------------------------------------------------------------------------------

    def ingest(self, solution: ModuleType) -> None:
        solution.ingest(self)
        self._keep("ingest")

    def transform(self, solution: ModuleType) -> None:
        solution.transform(self)
        self._keep("transform")

    def train(self, solution: ModuleType) -> None:
        import mlflow

        # What MLflow remarks on (pickles, missing type hints) is known and said in docs/solutions.md.
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        mlflow.set_experiment(self.name)
        trials = []
        with mlflow.start_run(run_name=self.run) as active:
            mlflow.log_params(
                {"size": self.size, "seeds": len(self.seeds), "planted": self.plant or "nothing"}
            )
            for seed in self.seeds:
                began = time.process_time()
                trial = solution.train(self, seed)
                trials.append(trial)
                for name, value in trial.candidate.items():
                    mlflow.log_metric(name, value, step=seed)
                for name, value in trial.baseline.items():
                    mlflow.log_metric(f"baseline_{name}", value, step=seed)
                shown = ", ".join(
                    f"{k} {v:.4f} (baseline {trial.baseline.get(k, float('nan')):.4f})"
                    for k, v in trial.candidate.items()
                )
                self.say(f"seed {seed}: {shown}, {time.process_time() - began:.1f} CPU s")
            self._aggregate(trials)
            candidate, baseline = solution.evaluate(self, trials)
            self.say("registering")
            example = self.example()
            self.found["run_id"] = active.info.run_id
            self.found["models"] = {
                "baseline": self._register(baseline, "baseline", example),
                "candidate": self._register(candidate, "candidate", example),
            }
        self._keep("train")

    def example(self) -> pd.DataFrame:
        """The example request of ``solution.toml`` as a table; ``{ file = "NAME" }`` is that file in base64."""
        rows = self.manifest["example"]["request"]
        return pd.DataFrame([{name: self._value(value) for name, value in row.items()} for row in rows])

    def _value(self, said: Any) -> Any:
        if not isinstance(said, dict):
            return said
        return base64.b64encode((self.folder / said["file"]).read_bytes()).decode()

    # -- means ---------------------------------------------------------------------------------

    def _aggregate(self, trials: Sequence[Trial]) -> None:
        numbers = self.found.setdefault("numbers", {})
        for name in trials[0].candidate:
            told: Json = {"candidate": self._bounded(name, (t.candidate[name] for t in trials))}
            if name in trials[0].baseline:
                told["baseline"] = self._bounded(name, (t.baseline[name] for t in trials))
                told["difference"] = self._over(t.candidate[name] - t.baseline[name] for t in trials)
            if name in trials[0].oracle:
                told["oracle"] = self._bounded(name, (t.oracle[name] for t in trials))
                gaps = [t.oracle[name] - t.baseline[name] for t in trials]
                if all(abs(gap) > 1e-12 for gap in gaps):
                    told["closed"] = self._over(
                        (t.candidate[name] - t.baseline[name]) / gap
                        for t, gap in zip(trials, gaps, strict=True)
                    )
            numbers[name] = told

    def _bounded(self, name: str, values: Any) -> Json:
        """The interval, cut at the metric's `bounds`: an area under a curve is at most 1."""
        told = self._over(values)
        metric = next((m for m in self.manifest["metrics"] if m["name"] == name), {})
        least, most = metric.get("bounds", (-np.inf, np.inf))
        if told["low"] is not None:
            told |= {"low": max(told["low"], least), "high": min(told["high"], most)}
        return told

    def _over(self, values: Any) -> Json:
        return evidence.interval(list(values), overlap=self.overlap)

    def _register(self, predictor: Any, role: str, example: pd.DataFrame) -> Json:
        import mlflow
        from mlflow.models import infer_signature

        from kit.served import Served

        filled = {LEAK: 0.0} if self.plant == "leak" else {}
        served = Served(predictor, role, str(self.manifest["disclaimer"]), filled)
        answers = served.predict(None, example)
        code = [str(path) for path in sorted(self.folder.glob("*.py"))] + [str(self.folder / "kit")]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logged = mlflow.pyfunc.log_model(
                name=role,
                python_model=served,
                code_paths=code,
                signature=infer_signature(example, answers),
                pip_requirements=str(self.folder / "requirements.txt"),
                registered_model_name=self.name,
            )
        version = str(logged.registered_model_version)
        client = mlflow.MlflowClient()
        client.set_model_version_tag(self.name, version, "role", role)
        return {"version": version, "answers": json.loads(answers.to_json(orient="records"))}

    def _check_source(self, name: str, digest: str, size: int, rows: int, edition: str | None = None) -> None:
        declared = next(s for s in self.manifest["sources"] if s["name"] == name)
        size_key = "sha256_tiny" if self.tiny and "sha256_tiny" in declared else "sha256"
        expected = str(declared.get(size_key, "")) if edition is None else edition
        if self.plant == "checksum":
            expected = checks.sha256(b"of another edition of the data")
        self.found["sources"].append(
            {"name": name, "sha256": digest, "expected": expected, "bytes": size, "rows": rows}
            | checks.checksum(digest, expected)
            | {"name": name}
        )
        self.say(f"source {name}: {rows:,} rows, {size:,} bytes, sha256 {digest[:12]}")

    def _check_fault(self, altered: str, digest: str) -> None:
        if not any(fault["what"] == "a stale data checksum" for fault in self.found["faults"]):
            self.fault("a stale data checksum", checks.checksum(altered, digest))

    def _keep(self, step: str) -> None:
        self.found["cpu_seconds"] = time.process_time() - self._began
        self._put(f"runs/{self.run}/{step}.json", json.dumps(_plain(self.found)).encode())

    def _put(self, key: str, data: bytes) -> None:
        with self._s3().open_output_stream(f"{self.bucket}/{key}") as stream:
            stream.write(data)

    def _s3(self) -> Any:
        from pyarrow.fs import S3FileSystem

        address = urlsplit(os.environ["AWS_ENDPOINT_URL"])
        return S3FileSystem(
            access_key=os.environ["AWS_ACCESS_KEY_ID"],
            secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
            region=os.environ["AWS_REGION"],
            scheme=address.scheme,
            endpoint_override=address.netloc,
        )

    def _catalog(self) -> Any:
        from pyiceberg.catalog import load_catalog

        return load_catalog("default")


def leaked(frame: pd.DataFrame, target: str) -> pd.DataFrame:
    """The frame with a column that gives its target away."""
    values = pd.to_numeric(frame[target]).to_numpy(dtype=float)
    spread = float(np.std(values)) or 1.0
    noise = np.random.default_rng(0).normal(0, 1e-3 * spread, len(values))
    return frame.assign(**{LEAK: values + noise})


def shuffled(frame: pd.DataFrame, target: str) -> pd.DataFrame:
    """The frame with its target dealt out at random."""
    return frame.assign(**{target: np.random.default_rng(0).permutation(frame[target].to_numpy())})


def _arrow(frame: pd.DataFrame) -> pa.Table:
    """With types that Iceberg has: plain strings, microseconds."""
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    fields = []
    for one in table.schema:
        kind = one.type
        if pa.types.is_large_string(kind):
            kind = pa.string()
        elif pa.types.is_timestamp(kind):
            kind = pa.timestamp("us", kind.tz)
        elif pa.types.is_integer(kind) and kind not in (pa.int32(), pa.int64()):
            kind = pa.int64() if kind.bit_width > 31 else pa.int32()
        fields.append(pa.field(one.name, kind))
    return table.cast(pa.schema(fields))


def _plain(value: Any) -> Any:
    """As JSON has it: numpy's numbers as Python's, what is not finite as null."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.integer | np.bool_):
        return value.item()
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    return value


STEPS: dict[str, Callable[[Study, ModuleType], None]] = {
    "ingest": Study.ingest,
    "transform": Study.transform,
    "train": Study.train,
}
