"""`@step` and `@pipeline`: a pipeline is what calling steps records.

Calling a step within a running pipeline does not run it: it notes the call and gives a `Handle`. A handle
given to another step is a dependency; `Handle.result()` waits, so that ordinary Python can decide what
comes next. The same calls in the same order are made again when a run is resumed, and each is then
answered from the journal: so a pipeline decides by values of steps only, never by the clock or by chance.

Called outside of a pipeline, a step is its function.
"""

import datetime
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, update_wrapper
from pathlib import Path
from typing import Any, Literal, Protocol

from stratal.sdk.amounts import seconds, size
from stratal.sdk.pipelines.checks import Check

Mode = Literal["append", "replace", "upsert"]


class StepFailed(Exception):
    """`Handle.result()` of a step that failed, or that could not run because one before it failed."""


@dataclass(frozen=True)
class Options:
    """How a step is to be run. With any of `cpus` … `network` set it is a job of its own; else it shares the
    worker of its run with other small ones."""

    cpus: float | None = None
    memory_bytes: int | None = None
    gpus: int = 0
    gpu_type: str | None = None
    requirements: str | None = None
    network: str | None = None
    isolated: bool = False
    timeout: float | None = None
    retries: int = 0
    cache: bool = True
    replay: bool = True

    @property
    def is_small(self) -> bool:
        """Does it share the run's worker?"""
        own = (self.cpus, self.memory_bytes, self.gpu_type, self.requirements, self.network)
        return not (any(value is not None for value in own) or self.gpus or self.isolated)


class Runtime(Protocol):
    """What turns calls into work: a worker, or the local run."""

    def call(self, step: "Step", arguments: Mapping[str, Any], index: int | None) -> "Handle": ...

    def result(self, handle: "Handle") -> Any: ...


_running: list[Runtime] = []
"""The runtime of the pipeline function that is being executed, innermost last."""


class Handle:
    """A call that was noted: `name` is the step's name within the run."""

    def __init__(self, runtime: Runtime, name: str, writes: str | None = None) -> None:
        self.name = name
        self.writes = writes
        self._runtime = runtime

    def result(self) -> Any:
        """What the step returned, waiting for it when it has not run yet. Raises `StepFailed`."""
        return self._runtime.result(self)

    def __repr__(self) -> str:
        return f"<step {self.name}>"

    def __bool__(self) -> bool:
        raise TypeError(f"Step {self.name} may not have run yet: ask for its value with .result().")

    def __iter__(self) -> Any:
        raise TypeError(f"Step {self.name} may not have run yet: ask for its value with .result().")


@dataclass(eq=False)
class Step:
    """One kind of work. `function` is None for steps whose `text` says what to do; a notebook's `path` is from the folder
    of the code."""

    name: str
    kind: Literal["python", "sql", "shell", "report", "notebook", "dbt"]
    options: Options
    function: Callable[..., Any] | None = None
    text: str = ""
    path: str = ""
    into: str | None = None
    mode: Mode = "replace"
    keys: Sequence[str] = ()
    checks: Sequence[Check] = ()
    doc: str = ""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        arguments = self.bind(args, kwargs)
        if _running:
            return _running[-1].call(self, arguments, None)
        from stratal.sdk.pipelines.execution import execute

        return execute(self, arguments)

    def map(self, items: "Iterable[Any] | Handle", *args: Any, **kwargs: Any) -> list[Any]:
        """Call it once for each of `items`, as the first argument; returns the handles in that order."""
        listed = items.result() if isinstance(items, Handle) else items
        if not _running:
            return [self(item, *args, **kwargs) for item in listed]
        runtime = _running[-1]
        return [
            runtime.call(self, self.bind((item, *args), kwargs), index) for index, item in enumerate(listed)
        ]

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by name. Positional ones of SQL and shell steps are only what must come before."""
        if self.function is None:
            return {**({"after": list(args)} if args else {}), **kwargs}
        if not kwargs and len(args) == len(self._named):
            return dict(zip(self._named, args, strict=True))
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return _flat(self.function, self._signature, bound.arguments)

    @cached_property
    def _signature(self) -> inspect.Signature:
        """Taken once: it costs more than most steps."""
        assert self.function is not None
        return inspect.signature(self.function)

    @cached_property
    def _named(self) -> Sequence[str]:
        """The parameters, when each may be given by its place and by its name; else none."""
        found = self._signature.parameters.values()
        return (
            [one.name for one in found] if all(one.kind is one.POSITIONAL_OR_KEYWORD for one in found) else ()
        )


@dataclass(eq=False)
class Pipeline:
    """A function that calls steps. Calling it runs it here, without a server."""

    name: str
    function: Callable[..., Any]
    doc: str = ""
    partition: str | None = None
    parallel: int | None = None

    def of_partition(self, name: str) -> dict[str, str]:
        """The argument by which the function is told which partition it makes. Raises `TypeError` when it takes none."""
        chosen = self.partition or next(iter(inspect.signature(self.function).parameters), None)
        if chosen is None:
            raise TypeError(f"{self.name}() takes no argument that could say which partition to make.")
        return {chosen: name}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from stratal.sdk.pipelines.local import run_here

        signature = inspect.signature(self.function)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return run_here(self, _flat(self.function, signature, bound.arguments))


def typed(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given as text or JSON, as the function's signature has it: dates, times, text and numbers with a fraction.

    Raises `TypeError` for what is no such thing.
    """
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # annotations may be anything
        hints = {}
    return {name: _as_hinted(name, hints.get(name), value) for name, value in given.items()}


def _as_hinted(name: str, hint: Any, value: Any) -> Any:
    is_union = typing.get_origin(hint) in {typing.Union, types.UnionType}
    kinds = typing.get_args(hint) if is_union else (hint,)
    if type(value) in kinds:
        return value
    for kind in kinds:
        try:
            if kind in {datetime.date, datetime.datetime} and isinstance(value, str):
                return kind.fromisoformat(value)
        except ValueError as error:
            shown = "2026-01-31" if kind is datetime.date else "2026-01-31T18:30"
            raise TypeError(f"{name} is a {kind.__name__}, such as {shown}, and not {value!r}.") from error
        if kind is str and isinstance(value, bool | int | float):
            return json.dumps(value)
        if kind is float and type(value) is int:
            return float(value)
    return value


def _flat(
    function: Callable[..., Any], signature: inspect.Signature, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Bound arguments as they can be passed by name. Raises `TypeError` for functions that take ``*args``."""
    found: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY}:
            raise TypeError(f"{function.__name__}() must take its arguments by name, not {parameter}.")
        if name not in arguments:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            found |= arguments[name]
        else:
            found[name] = arguments[name]
    return found


def _seconds(timeout: float | str | None) -> float | None:
    return None if timeout is None else seconds(timeout)


def step(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    cpus: float | None = None,
    memory: int | str | None = None,
    gpus: int = 0,
    gpu_type: str | None = None,
    requirements: str | Sequence[str] | None = None,
    network: Literal["platform", "open"] | None = None,
    isolated: bool = False,
    timeout: float | str | None = None,
    retries: int = 0,
    cache: bool = True,
    replay: bool = True,
    writes: str | None = None,
    checks: Sequence[Check] = (),
) -> Any:
    """Make a function a step.

    `memory` is bytes or ``"2GiB"``; `requirements` are lines of a requirements file or a list of them;
    `timeout` is seconds (or ``"5m"``) for one attempt, `retries` how often it is tried again; `cache=False` runs it each
    time; `replay=False`: a replay of the run does not do it again (it deploys something, say); `writes` names
    the table it writes, so that SQL steps that refer to it come after it; `checks` are carried
    out on what it wrote before others see it (see `checks`).
    """
    options = Options(
        cpus=cpus,
        memory_bytes=None if memory is None else size(memory),
        gpus=gpus,
        gpu_type=gpu_type,
        requirements="\n".join(requirements)
        if isinstance(requirements, list | tuple)
        else None
        if requirements is None
        else str(requirements),
        network=network,
        isolated=isolated,
        timeout=_seconds(timeout),
        retries=retries,
        cache=cache,
        replay=replay,
    )

    def make(made: Callable[..., Any]) -> Step:
        found = Step(
            name or made.__name__,
            "python",
            options,
            made,
            into=writes,
            checks=tuple(checks),
            doc=inspect.getdoc(made) or "",
        )
        update_wrapper(found, made, updated=())
        return found

    return make if function is None else make(function)


def sql_step(
    text: str,
    *,
    into: str | None = None,
    mode: Mode = "replace",
    keys: Sequence[str] = (),
    name: str | None = None,
    timeout: float | str | None = None,
    retries: int = 0,
    cache: bool = True,
    checks: Sequence[Check] = (),
) -> Step:
    """A query over tables: its rows become the table `into`, or without it the step's value.

    ``{{ ref('ns.table') }}`` names a table, at the snapshot that an earlier step of the run left;
    ``{{ day }}`` is the argument `day` as a literal.
    """
    made = name or (into.replace(".", "_") if into else "sql")
    if mode == "upsert" and not keys:
        raise ValueError("An upsert needs its keys: sql_step(…, mode='upsert', keys=['id']).")
    options = Options(timeout=_seconds(timeout), retries=retries, cache=cache)
    if checks and into is None:
        raise ValueError("Checks are of the table that a step writes: say which with into='ns.table'.")
    return Step(made, "sql", options, text=text, into=into, mode=mode, keys=tuple(keys), checks=tuple(checks))


def shell_step(
    command: str,
    *,
    name: str | None = None,
    timeout: float | str | None = None,
    retries: int = 0,
    cache: bool = True,
    **options: Any,
) -> Step:
    """A shell command in the folder of the code; arguments are the variables ``ARG_<NAME>``, and what it prints is
    its value. `options` are those of `step` that make it a job of its own."""
    if "memory" in options:
        options["memory_bytes"] = size(options.pop("memory"))
    chosen = Options(timeout=_seconds(timeout), retries=retries, cache=cache, **options)
    return Step(name or re.sub(r"\W+", "_", command.split()[0]) or "shell", "shell", chosen, text=command)


def report_step(
    text: str,
    *,
    name: str = "report",
    title: str = "",
    timeout: float | str | None = None,
    retries: int = 0,
    cache: bool = True,
) -> Step:
    """A report in SQL: its value is a page of HTML, kept as an object; `stratal pipeline report` and the console show it.

    `text` is Markdown (headings, paragraphs, lists) with queries in fences, ````` ```sql line x=week y=ppm title="…" `````:
    shown as a ``table`` (when nothing is said), ``line``, ``bar``, ``scatter`` or ``value``. ``{{ ref('ns.table') }}`` and
    ``{{ day }}`` are as in SQL steps.
    """
    options = Options(timeout=_seconds(timeout), retries=retries, cache=cache)
    return Step(name, "report", options, text=inspect.cleandoc(text), doc=title)


def notebook_step(
    path: str,
    *,
    name: str | None = None,
    requirements: str | Sequence[str] = (),
    timeout: float | str | None = None,
    retries: int = 0,
    cache: bool = True,
    cpus: float | None = None,
    memory: int | str | None = None,
    network: Literal["platform", "open"] | None = None,
) -> Step:
    """A notebook: executed with the step's arguments as its parameters, its value a page of HTML, as of `report_step`.

    `path` is from the folder of the file that says this. It is a job of its own, in an environment with papermill,
    nbconvert and the `requirements`. Raises `FileNotFoundError`.
    """
    from stratal.sdk.pipelines.reports import NOTEBOOK_REQUIREMENTS

    frame = inspect.currentframe()
    caller = frame.f_back if frame is not None else None
    folder = Path(caller.f_code.co_filename).resolve().parent if caller is not None else Path.cwd()
    file = folder / path
    wanted = requirements.splitlines() if isinstance(requirements, str) else list(requirements)
    options = Options(
        cpus=cpus,
        memory_bytes=None if memory is None else size(memory),
        requirements="\n".join([*NOTEBOOK_REQUIREMENTS, *wanted]),
        network=network,
        timeout=_seconds(timeout),
        retries=retries,
        cache=cache,
    )
    text = file.read_text(encoding="utf-8")
    made = name or re.sub(r"\W+", "_", file.stem)
    return Step(made, "notebook", options, text=text, path=str(file))


def dbt_step(
    folder: str,
    *,
    select: Sequence[str] = (),
    schema: str | None = None,
    name: str | None = None,
    requirements: str | Sequence[str] = (),
    timeout: float | str | None = None,
    retries: int = 0,
    cache: bool = True,
    cpus: float | None = None,
    memory: int | str | None = None,
) -> Step:
    """A project of dbt (the folder with its ``dbt_project.yml``), built and tested; its value are the tables it made.

    `folder` is from the folder of the file that says this; arguments are dbt's variables. Its sources are tables of the
    platform; its models, seeds and snapshots become such, in the project's name or `schema` where dbt puts them by
    default; its tests are the step's checks. It is a job of its own, in an environment with dbt-duckdb and the
    `requirements`. Packages of dbt must be in the folder. Raises `FileNotFoundError`.
    """
    from stratal.sdk.pipelines import dbt

    frame = inspect.currentframe()
    caller = frame.f_back if frame is not None else None
    here = Path(caller.f_code.co_filename).resolve().parent if caller is not None else Path.cwd()
    place = here / folder
    if not (place / dbt.PROJECT_FILE).is_file():
        raise FileNotFoundError(f"{place / dbt.PROJECT_FILE}: {folder} is no project of dbt")
    wanted = requirements.splitlines() if isinstance(requirements, str) else list(requirements)
    options = Options(
        cpus=cpus,
        memory_bytes=None if memory is None else size(memory),
        requirements="\n".join([*dbt.REQUIREMENTS, *wanted]),
        timeout=_seconds(timeout),
        retries=retries,
        cache=cache,
    )
    text = dbt.described(place, select, schema)
    return Step(name or re.sub(r"\W+", "_", place.resolve().name), "dbt", options, text=text, path=str(place))


def pipeline(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    partition: str | None = None,
    parallel: int | None = None,
) -> Any:
    """Make a function that calls steps a pipeline.

    `partition` names the argument that says which partition it makes (default: its first); `parallel`: at
    most so many small steps at once.
    """

    def make(made: Callable[..., Any]) -> Pipeline:
        found = Pipeline(
            name or made.__name__,
            made,
            inspect.getdoc(made) or "",
            partition=partition,
            parallel=parallel,
        )
        update_wrapper(found, made, updated=())
        return found

    return make if function is None else make(function)


@dataclass
class Found:
    """The pipelines and steps of a file."""

    pipelines: dict[str, Pipeline] = field(default_factory=dict)
    steps: dict[str, Step] = field(default_factory=dict)


def found_in(module: Any) -> Found:
    """What a module defines at its top, by name; steps by the name of their variable."""
    found = Found()
    for variable, value in vars(module).items():
        if isinstance(value, Pipeline):
            found.pipelines[value.name] = value
        elif isinstance(value, Step):
            found.steps[variable] = value
    return found
