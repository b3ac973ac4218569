"""``solution.toml``, read and checked: what a solution is for, what it stands on and what it must show."""

import base64
import dataclasses
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stratal.kernel.errors import Invalid

SOURCE_KINDS = ("bundled", "generated", "downloaded", "yours", "platform")
BADGES = ("real", "generated", "published")
STATISTICAL = {
    "beats-baseline": {"metric"},
    "reference": {"reference"},
    "gap-closed": {"metric", "at_least"},
    "threshold": {"metric"},
    "calibration": {"metric"},
    "subgroups": {"at_least"},
    "latency": {"p95_ms"},
    "budget": {"cpu_minutes_per_seed"},
}
"""The gates that a solution declares, and what each needs to be told. The mechanical ones hold for all."""
MECHANICAL = ("data", "checks", "labels", "leakage", "baseline", "faults", "answer", "why")
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Source:
    """Where data comes from. `sha256` is what it must be; a generated source has one for each size.

    One of the kind ``platform`` is the installation's own, as it was installed: its edition is told to the job.
    """

    name: str
    title: str
    kind: str
    licence: str
    sha256: str
    personal_data: str
    origin: str
    url: str = ""
    """Where a downloaded one is fetched."""
    terms: str = ""
    """What whoever downloads it agrees to; empty where its licence says enough."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """A model of the hub that the server is set to, at one commit, that --download makes one of the project's."""

    name: str
    source: str
    licence: str
    pickles: bool


@dataclass(frozen=True, slots=True)
class Indexed:
    """Objects of the solution's bucket, of which an index is made when they were ingested (docs/retrieval.md)."""

    name: str
    objects: str


@dataclass(frozen=True, slots=True)
class Check:
    """SQL over the solution's tables, and the one value it must give."""

    title: str
    sql: str
    expect: Any


@dataclass(frozen=True, slots=True)
class Metric:
    """A number of the report. `better` is ``higher``, ``lower`` or empty; `badge` says what it was measured on."""

    name: str
    title: str
    better: str
    badge: str
    unit: str
    headline: bool


@dataclass(frozen=True, slots=True)
class Reference:
    """A published figure: on which data and split, from where, and how near is near enough."""

    name: str
    title: str
    metric: str
    value: float
    tolerance: float
    data: str
    source: str


@dataclass(frozen=True, slots=True)
class Gate:
    kind: str
    title: str
    terms: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Solution:
    """One solution as its folder declares it."""

    name: str
    title: str
    field: str
    summary: str
    intended_use: str
    not_for: Sequence[str]
    disclaimer: str
    folder: Path
    seeds: int
    cpus: float
    memory: str
    sources: Sequence[Source]
    checks: Sequence[Check]
    metrics: Sequence[Metric]
    references: Sequence[Reference]
    gates: Sequence[Gate]
    request: Sequence[Mapping[str, Any]]
    expect: Sequence[Mapping[str, Any]]
    has_target: bool
    documentation: bool = False
    """Do its jobs get the platform's own pages, in the folder ``documentation``?"""
    indexes: Sequence[Indexed] = ()
    pulls: Sequence[Pulled] = ()
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The example's columns that are pictures or other files, with the file's name."""
    refusal: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    mechanics_only: str = ""
    """Why a run without --download shows that the parts work and no more; empty when it shows more."""

    @property
    def steps(self) -> Sequence[str]:
        """The steps that are jobs."""
        code = (self.folder / "solution.py").read_text()
        return [s for s in ("ingest", "transform", "train") if re.search(rf"^def {s}\(", code, re.MULTILINE)]

    @property
    def requirements(self) -> str:
        return (self.folder / "requirements.txt").read_text()

    @property
    def headline(self) -> Metric:
        return next((m for m in self.metrics if m.headline), self.metrics[0])


def read(folder: Path) -> Solution:
    """Read and check the folder's ``solution.toml``. Raises `Invalid` naming the file and what is wrong with it."""
    path = folder / "solution.toml"
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Invalid(f"{path} cannot be read: {error}") from error
    try:
        return _solution(folder, said)
    except (KeyError, TypeError, ValueError) as error:
        told = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise Invalid(f"{path}: {told}.", hint="docs/solutions.md says what a solution declares.") from error


def _solution(folder: Path, said: Mapping[str, Any]) -> Solution:
    name = str(said["name"])
    if not NAME.fullmatch(name) or name != folder.name:
        raise ValueError(f"the name {name!r} is not that of its folder, or not lower-case words with hyphens")
    run = said["run"]
    example = said["example"]
    metrics = [_metric(one) for one in said["metrics"]]
    references = [_reference(one) for one in said.get("references", [])]
    gates = [_gate(one, {m.name for m in metrics}, {r.name for r in references}) for one in said["gates"]]
    kinds = {gate.kind for gate in gates}
    for needed in ("latency", "budget"):
        if needed not in kinds:
            raise ValueError(f"a solution declares a gate of kind {needed!r}")
    if len(example["request"]) != len(example["expect"]):
        raise ValueError("the example has as many expected answers as rows of the request")
    return Solution(
        name=name,
        title=str(said["title"]),
        field=str(said["field"]),
        summary=str(said["summary"]),
        intended_use=str(said["intended_use"]),
        not_for=[str(one) for one in said["not_for"]],
        disclaimer=str(said["disclaimer"]),
        folder=folder,
        seeds=_at_least(int(run.get("seeds", 3)), 3, "seeds"),
        cpus=float(run.get("cpus", 1)),
        memory=str(run.get("memory", "2GiB")),
        sources=[_source(one) for one in said["sources"]],
        checks=[Check(str(c["title"]), str(c["sql"]), c["expect"]) for c in said.get("checks", [])],
        metrics=metrics,
        references=references,
        gates=gates,
        request=[{name: _value(folder, value) for name, value in row.items()} for row in example["request"]],
        expect=list(example["expect"]),
        files={
            name: str(value["file"])
            for row in reversed(example["request"])
            for name, value in row.items()
            if isinstance(value, dict)
        },
        has_target="target" in said,
        documentation=bool(run.get("documentation", False)),
        pulls=[_pulled(one) for one in said.get("pulls", [])],
        indexes=[Indexed(str(one["name"]), str(one["objects"])) for one in said.get("indexes", [])],
        refusal=dict(said.get("refusal", {})),
        mechanics_only=str(said.get("mechanics_only", "")),
    )


def _value(folder: Path, said: Any) -> Any:
    """A value of the example; ``{ file = "NAME" }`` is a file of the folder, in base64 as JSON carries it."""
    if not isinstance(said, dict):
        return said
    name = str(said["file"])
    path = folder / name
    if path.parent != folder or not path.is_file():
        raise ValueError(f"the example's file {name!r} is not in the folder")
    return base64.b64encode(path.read_bytes()).decode()


def _pulled(said: Mapping[str, Any]) -> Pulled:
    source = str(said["source"])
    if not re.fullmatch(r"hf:[^@\s]+@[0-9a-f]{40}", source):
        raise ValueError(f"{source!r} does not name one commit: hf:org/name@<40 hexadecimal digits>")
    return Pulled(str(said["name"]), source, str(said["licence"]), bool(said.get("pickles", False)))


def _source(said: Mapping[str, Any]) -> Source:
    if said["kind"] == "downloaded" and not str(said["url"]).startswith(("https://", "http://127.0.0.1:")):
        raise ValueError(f"{said['url']!r} is no https address")
    return Source(
        name=str(said["name"]),
        title=str(said["title"]),
        kind=_one_of(said["kind"], SOURCE_KINDS, "kind of source"),
        licence=str(said["licence"]),
        sha256=str(said.get("sha256", "") if said["kind"] == "platform" else said["sha256"]),
        personal_data=str(said["personal_data"]),
        origin=str(said["origin"]),
        url=str(said.get("url", "")),
        terms=str(said.get("terms", "")),
    )


def _metric(said: Mapping[str, Any]) -> Metric:
    return Metric(
        name=str(said["name"]),
        title=str(said["title"]),
        better=_one_of(said.get("better", ""), ("higher", "lower", ""), "`better`"),
        badge=_one_of(said["badge"], BADGES, "badge"),
        unit=str(said.get("unit", "")),
        headline=bool(said.get("headline", False)),
    )


def _reference(said: Mapping[str, Any]) -> Reference:
    return Reference(
        name=str(said["name"]),
        title=str(said["title"]),
        metric=str(said["metric"]),
        value=float(said["value"]),
        tolerance=float(said["tolerance"]),
        data=str(said["data"]),
        source=str(said["source"]),
    )


def _gate(said: Mapping[str, Any], metrics: set[str], references: set[str]) -> Gate:
    terms = dict(said)
    kind = _one_of(terms.pop("kind"), tuple(STATISTICAL), "kind of gate")
    title = str(terms.pop("title"))
    missing = STATISTICAL[kind] - set(terms)
    if missing:
        raise ValueError(f"the gate {title!r} lacks {', '.join(sorted(missing))}")
    if terms.get("metric", next(iter(metrics))) not in metrics:
        raise ValueError(f"the gate {title!r} names the metric {terms['metric']!r}, which is not declared")
    if kind == "reference" and terms["reference"] not in references:
        raise ValueError(
            f"the gate {title!r} names the reference {terms['reference']!r}, which is not declared"
        )
    if kind in {"threshold", "calibration"} and not {"at_least", "at_most"} & set(terms):
        raise ValueError(f"the gate {title!r} says neither at_least nor at_most")
    if not isinstance(terms.get("needs_download", False), bool):
        raise ValueError(f"the gate {title!r} says needs_download = {terms['needs_download']!r}")
    return Gate(kind, title, terms)


def _one_of(value: Any, allowed: Sequence[str], what: str) -> str:
    if value not in allowed:
        raise ValueError(f"{value!r} is no {what}: {', '.join(a for a in allowed if a)}")
    return str(value)


def _at_least(value: int, least: int, what: str) -> int:
    if value < least:
        raise ValueError(f"{value} {what}; {least} is the least")
    return value
