"""Gates: what a run measured, held against what the solution must show. Pure.

*Mechanical* gates hold for every solution and every size of run: the data is the declared edition, its checks
hold, labels are the source's, nothing leaks, the baseline is no straw man, every planted fault was noticed,
what is served answers as what was trained, and the chain behind an answer verifies. *Statistical* gates are
declared; a tiny run is too small for them, so there they are *not judged*.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stratal.ai.solutions.manifest import Gate, Solution

PASSED, FAILED, NOT_JUDGED = "passed", "failed", "not judged"
LEAST_N = 30
"""A subgroup with fewer rows gets no verdict."""
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One gate's outcome. `said` is the reason, with the figures."""

    gate: str
    title: str
    status: str
    said: str

    def told(self) -> Json:
        return asdict(self)


def judge(
    solution: Solution, found: Mapping[str, Any], *, tiny: bool, downloaded: bool = False
) -> list[Verdict]:
    """Every gate's verdict on what was measured (`found`: the steps' evidence, checks, served answers, usage).

    Gates that say ``needs_download`` are judged in runs with --download only.
    """
    verdicts = list(_mechanical(solution, found))
    for gate in solution.gates:
        if tiny:
            verdicts.append(Verdict(gate.kind, gate.title, NOT_JUDGED, "a tiny run is too small to judge it"))
        elif gate.terms.get("needs_download") and not downloaded:
            verdicts.append(Verdict(gate.kind, gate.title, NOT_JUDGED, "it needs what --download fetches"))
        else:
            verdicts.append(_statistical(gate, solution, found))
    return verdicts


def failed(verdicts: Sequence[Verdict]) -> list[Verdict]:
    return [verdict for verdict in verdicts if verdict.status == FAILED]


# -- mechanical ------------------------------------------------------------------------------------------


def _mechanical(solution: Solution, found: Mapping[str, Any]) -> Iterator[Verdict]:
    yield _all("data", "The data is the declared edition", found.get("sources", []))
    yield _all("checks", "The data's checks hold", found.get("checks", []), empty=not solution.checks)
    if solution.has_target:
        yield _all("labels", "The labels trained on are the source's", [found.get("labels")])
    yield _all("leakage", "Nothing leaks from what is tested into what is trained", found.get("leakage", []))
    yield _all("baseline", "The baseline is no straw man", [found.get("baseline")])
    noticed = [
        {
            "passed": fault["noticed"],
            "said": f"{fault['what']}: {'noticed' if fault['noticed'] else 'NOT noticed'}",
        }
        for fault in found.get("faults", [])
    ]
    yield _all("faults", "Planted faults are noticed", noticed)
    yield _all("answer", "The endpoint answers as the trained model does", [found.get("answer")])
    yield _all("why", "The chain behind its answer verifies", [found.get("why")])


def _all(gate: str, title: str, outcomes: Sequence[Any], *, empty: bool = False) -> Verdict:
    """Passed when there are outcomes and all of them passed: what was not looked at has not passed."""
    if empty:
        return Verdict(gate, title, PASSED, "none is declared")
    if not outcomes or any(outcome is None for outcome in outcomes):
        return Verdict(gate, title, FAILED, "the run does not say: it was not looked at")
    bad = [outcome for outcome in outcomes if not outcome["passed"]]
    said = "; ".join(_named(outcome) for outcome in (bad or outcomes))
    return Verdict(gate, title, FAILED if bad else PASSED, said)


def _named(outcome: Mapping[str, Any]) -> str:
    name = outcome.get("name")
    return f"{name}: {outcome['said']}" if name else str(outcome["said"])


# -- statistical -----------------------------------------------------------------------------------------


def _statistical(gate: Gate, solution: Solution, found: Mapping[str, Any]) -> Verdict:
    passed, said = _JUDGES[gate.kind](gate, solution, found)
    return Verdict(gate.kind, gate.title, PASSED if passed else FAILED, said)


def _beats_baseline(gate: Gate, solution: Solution, found: Mapping[str, Any]) -> tuple[bool, str]:
    """The whole interval of the paired difference lies on the better side, by at least `margin`."""
    number = _number(gate, found)
    metric = next(m for m in solution.metrics if m.name == gate.terms["metric"])
    margin = float(gate.terms.get("margin", 0.0))
    if number is None or "difference" not in number:
        return False, _unmeasured(gate)
    gain = number["difference"]
    sign = 1.0 if metric.better == "higher" else -1.0
    edges = [v for v in (gain["low"], gain["high"]) if v is not None]
    if len(edges) != 2:
        return False, "there is no interval: more seeds are needed"
    worst = min(sign * edge for edge in edges)
    said = (
        f"{metric.title}: candidate {number['candidate']['mean']:.4f}, baseline {number['baseline']['mean']:.4f}, "
        f"difference {gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"
    )
    return worst > margin, said + (f", margin {margin}" if margin else "")


def _reference(gate: Gate, solution: Solution, found: Mapping[str, Any]) -> tuple[bool, str]:
    reference = next(r for r in solution.references if r.name == gate.terms["reference"])
    number = found.get("numbers", {}).get(reference.metric)
    if number is None:
        return False, f"the run did not measure {reference.metric}"
    mean = number["candidate"]["mean"]
    published = f"published {reference.value:g} ± {reference.tolerance:g} ({reference.source})"
    said = f"{reference.title}: {mean:.4f} here, {published}"
    return abs(mean - reference.value) <= reference.tolerance, said


def _gap_closed(gate: Gate, solution: Solution, found: Mapping[str, Any]) -> tuple[bool, str]:
    """Of what lies between baseline and oracle, the candidate has at least this share."""
    number = _number(gate, found)
    if number is None or "closed" not in number:
        return False, _unmeasured(gate)
    share = number["closed"]
    said = (
        f"baseline {number['baseline']['mean']:.4f}, candidate {number['candidate']['mean']:.4f}, "
        f"oracle {number['oracle']['mean']:.4f}: {share['mean']:.0%} of the gap is closed"
        f"{_between(share, percent=True)}, wanted {float(gate.terms['at_least']):.0%}"
    )
    return share["mean"] >= float(gate.terms["at_least"]), said


def _threshold(gate: Gate, solution: Solution, found: Mapping[str, Any]) -> tuple[bool, str]:
    number = _number(gate, found)
    if number is None or number["candidate"]["mean"] is None:
        return False, _unmeasured(gate)
    mean = number["candidate"]["mean"]
    low, high = float(gate.terms.get("at_least", -math.inf)), float(gate.terms.get("at_most", math.inf))
    wanted = " and ".join(
        f"{word} {gate.terms[key]}"
        for key, word in (("at_least", "at least"), ("at_most", "at most"))
        if key in gate.terms
    )
    return low <= mean <= high, f"{mean:.4f}{_between(number['candidate'])}, wanted {wanted}"


def _subgroups(gate: Gate, solution: Solution, found: Mapping[str, Any]) -> tuple[bool, str]:
    """No subgroup of 30 or more is surely (by its whole interval) below the floor."""
    floor = float(gate.terms["at_least"])
    rows = found.get("subgroups", [])
    if not rows:
        return False, "the run measured no subgroups"
    judged = [row for row in rows if row["n"] >= LEAST_N]
    low = [row for row in judged if row["high"] < floor]
    words = [f"{row['label']} {row['group']}: {row['value']:.3f} (n = {row['n']})" for row in low]
    small = len(rows) - len(judged)
    said = f"{len(judged)} subgroups judged, floor {floor}" + (
        f", {small} with fewer than {LEAST_N} get no verdict" if small else ""
    )
    return not low and bool(judged), said + (f"; below it: {', '.join(words)}" if low else "")


def _latency(gate: Gate, solution: Solution, found: Mapping[str, Any]) -> tuple[bool, str]:
    latency = found.get("latency")
    if not latency:
        return False, "no latency was measured"
    said = (
        f"95 % of {latency['requests']} requests within {latency['p95_ms']:.1f} ms (median {latency['p50_ms']:.1f} ms), "
        f"wanted {gate.terms['p95_ms']} ms"
    )
    return latency["p95_ms"] <= float(gate.terms["p95_ms"]), said


def _budget(gate: Gate, solution: Solution, found: Mapping[str, Any]) -> tuple[bool, str]:
    usage = found.get("usage")
    if not usage or not usage.get("cpu_minutes"):
        return False, "no use was metered"
    each = usage["cpu_minutes"] / usage["seeds"]
    return each <= float(gate.terms["cpu_minutes_per_seed"]), (
        f"{usage['cpu_minutes']:.2f} CPU-minutes for {usage['seeds']} seeds, {each:.2f} each, "
        f"wanted {gate.terms['cpu_minutes_per_seed']}"
    )


_JUDGES: dict[str, Callable[[Gate, Solution, Mapping[str, Any]], tuple[bool, str]]] = {
    "beats-baseline": _beats_baseline,
    "reference": _reference,
    "gap-closed": _gap_closed,
    "threshold": _threshold,
    "calibration": _threshold,
    "subgroups": _subgroups,
    "latency": _latency,
    "budget": _budget,
}


def _number(gate: Gate, found: Mapping[str, Any]) -> Any:
    return found.get("numbers", {}).get(gate.terms["metric"])


def _unmeasured(gate: Gate) -> str:
    return f"the run did not measure {gate.terms['metric']}"


def _between(told: Mapping[str, Any], *, percent: bool = False) -> str:
    if told.get("low") is None or told.get("high") is None:
        return ""
    return (
        f" [{told['low']:.0%}, {told['high']:.0%}]"
        if percent
        else f" [{told['low']:.4f}, {told['high']:.4f}]"
    )
