"""What a sweep is: its space, its trials, its states. Pure."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from stratal.identity.model import Principal
from stratal.kernel.errors import Invalid, TooLarge

MOST_PARAMETERS = 50
MOST_CHOICES = 200
MOST_TRIALS = 1000
MOST_PARALLEL = 100
MOST_POINTS = 1000
"""So many points of a trial's metric are kept for judging later ones."""
HOPELESS = 5
"""A sweep whose first trials all fail ends after so many: the script is wrong, not the parameters."""

_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}\Z")
_WIDEST = 1e300
_WIDEST_INTEGER = 2**53

Value = float | int | str


class ParameterKind(StrEnum):
    """How a parameter is drawn: evenly, evenly over its logarithm, the same for whole numbers, or from a list."""

    FLOAT = "float"
    LOG = "log"
    INT = "int"
    INTLOG = "intlog"
    CHOICE = "choice"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One dimension of a space: from `low` to `high`, both included, in steps of `step` where given, or one of `choices`."""

    name: str
    kind: ParameterKind
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: Sequence[str] = ()

    @property
    def whole(self) -> bool:
        return self.kind in {ParameterKind.INT, ParameterKind.INTLOG}

    @property
    def logarithmic(self) -> bool:
        return self.kind in {ParameterKind.LOG, ParameterKind.INTLOG}


class SweepState(StrEnum):
    """running ──▶ succeeded | failed, or ──▶ stopping ──▶ stopped."""

    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def ended(self) -> bool:
        return self in {SweepState.SUCCEEDED, SweepState.FAILED, SweepState.STOPPED}


class TrialState(StrEnum):
    RUNNING = "running"
    """Its job waits or runs."""
    SUCCEEDED = "succeeded"
    PRUNED = "pruned"
    """Ended early, as others did better at the same point."""
    FAILED = "failed"
    """Its job failed, or logged no such metric."""
    STOPPED = "stopped"

    @property
    def ended(self) -> bool:
        return self is not TrialState.RUNNING


@dataclass(frozen=True, slots=True)
class Trial:
    """One try. `points` are (step, value) of the metric, `value` its last; times are epoch milliseconds."""

    number: int
    state: TrialState
    params: Mapping[str, Value]
    job_id: int
    run_id: str | None
    value: float | None
    points: Sequence[tuple[int, float]]
    reason: str
    prune_asked_at: int | None
    begun_at: int
    ended_at: int | None


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep as recorded. `template` is the job that each trial is, as JSON; `run_id` the parent of the trials' runs."""

    id: int
    project_id: str
    name: str
    state: SweepState
    argv: Sequence[str]
    space: Sequence[Parameter]
    metric: str
    maximize: bool
    trials: int
    parallel: int
    prune: bool
    seed: int
    register_as: str | None
    experiment: str
    run_id: str
    template: str
    created_by: str
    creator: Principal
    created_at: int
    ended_at: int | None
    reason: str
    best: int | None
    version: int | None


@dataclass(frozen=True, slots=True)
class Counted:
    """A sweep with how many of its trials are in which state, and its best so far."""

    sweep: Sweep
    states: Mapping[TrialState, int]
    best: Trial | None = None


@dataclass(frozen=True, slots=True)
class Study:
    """All that is known of a search: what the next trial's parameters are found from."""

    space: Sequence[Parameter]
    maximize: bool
    seed: int
    trials: Sequence[Trial] = field(default_factory=tuple)


def check_space(space: Sequence[Parameter]) -> None:
    """Raise `Invalid` for what cannot be searched, `TooLarge` for too much of it."""
    if not space:
        raise Invalid(
            "A sweep needs a parameter to search.",
            hint="For example --param lr=log:1e-4..1e-1",
            reason="no_space",
        )
    if len(space) > MOST_PARAMETERS:
        raise TooLarge(f"A sweep may have {MOST_PARAMETERS} parameters.")
    names = [parameter.name for parameter in space]
    for name in names:
        if not _PARAMETER.match(name):
            raise Invalid(
                f"{name[:60]!r} cannot name a parameter.",
                hint="Use letters, digits, '_', '.' and '-', beginning with a letter or '_'.",
                reason="bad_parameter",
            )
    variables = [variable_of(name) for name in names]
    if len(set(variables)) < len(variables):
        raise Invalid("Two parameters have the same name.", reason="bad_parameter")
    for parameter in space:
        _check_range(parameter) if parameter.kind is not ParameterKind.CHOICE else _check_choices(parameter)


def _check_choices(parameter: Parameter) -> None:
    choices = parameter.choices
    if not choices or len(set(choices)) < len(choices) or any(len(word) > 500 for word in choices):
        raise Invalid(
            f"{parameter.name} needs choices that differ, of at most 500 characters.", reason="bad_parameter"
        )
    if len(choices) > MOST_CHOICES:
        raise TooLarge(f"A parameter may have {MOST_CHOICES} choices.")
    if any("\0" in word for word in choices):
        raise Invalid(f"A choice of {parameter.name} holds a NUL character.", reason="nul")


def _check_range(parameter: Parameter) -> None:
    def refuse(why: str) -> Invalid:
        return Invalid(f"The parameter {parameter.name} {why}.", reason="bad_parameter")

    low, high, step = parameter.low, parameter.high, parameter.step
    if low is None or high is None or parameter.choices:
        raise refuse("needs a range, and no choices")
    widest = _WIDEST_INTEGER if parameter.whole else _WIDEST
    if not all(math.isfinite(v) and abs(v) <= widest for v in (low, high, step or 0)):
        raise refuse("is out of what can be counted")
    if low >= high:
        raise refuse("must have a range that goes up, e.g. 2..8")
    if parameter.logarithmic and low <= 0:
        raise refuse("is searched over its logarithm, so its range begins above 0")
    if parameter.whole and not all(float(v).is_integer() for v in (low, high, step or 1)):
        raise refuse("is of whole numbers")
    if step is not None and (parameter.logarithmic or not 0 < step <= high - low):
        raise refuse("has a step that does not fit its range")


def variable_of(name: str) -> str:
    """The environment variable that tells a trial the parameter `name`."""
    return "STRATAL_PARAM_" + re.sub(r"[^A-Z0-9]", "_", name.upper())


def text_of(value: Value) -> str:
    """A parameter's value as a script reads it."""
    return repr(value) if isinstance(value, float) else str(value)


def command_of(argv: Sequence[str], params: Mapping[str, Value]) -> list[str]:
    """The command of a trial: ``{lr}`` is replaced where it stands; what stands nowhere is appended as ``--lr=0.01``."""
    told: set[str] = set()

    def put_in(word: str) -> str:
        for name, value in params.items():
            if (mark := f"{{{name}}}") in word:
                told.add(name)
                word = word.replace(mark, text_of(value))
        return word

    words = [put_in(word) for word in argv]
    return words + [f"--{name}={text_of(value)}" for name, value in params.items() if name not in told]


def best_of(trials: Sequence[Trial], *, maximize: bool) -> Trial | None:
    """The trial that did best, the earlier of equals; None while none has succeeded."""
    good = [t for t in trials if t.state is TrialState.SUCCEEDED and t.value is not None]
    sign = -1.0 if maximize else 1.0
    return min(good, key=lambda t: (sign * (t.value or 0.0), t.number), default=None)
