"""Optuna's process: reads a study and a question a line, writes the answer a line, ends with its input.

The study is built anew from what the question tells, in memory. The sampler is Optuna's own default,
a tree-structured Parzen estimator (https://papers.nips.cc/paper/2011/hash/86e8f7ab32cfd12577bc2619bc635690-Abstract.html),
told of the trials that still run, so that those begun side by side differ; the pruner its median rule: a
trial whose value at a step is worse than the median of earlier trials' at that step is not worth going on.
"""

import json
import sys
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

_STATES = {
    "running": TrialState.RUNNING,
    "succeeded": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


def distribution_of(parameter: dict[str, Any]) -> BaseDistribution:
    kind, low, high, step = (parameter[name] for name in ("kind", "low", "high", "step"))
    if kind == "choice":
        return CategoricalDistribution(parameter["choices"])
    if kind in {"int", "intlog"}:
        return IntDistribution(int(low), int(high), log=kind == "intlog", step=int(step or 1))
    return FloatDistribution(low, high, log=kind == "log", step=step)


def study_of(question: dict[str, Any]) -> tuple[optuna.Study, dict[str, BaseDistribution]]:
    space = {parameter["name"]: distribution_of(parameter) for parameter in question["space"]}
    seed = (question["seed"] + len(question["trials"])) % 2**31  # else each question would be answered alike
    study = optuna.create_study(
        direction="maximize" if question["maximize"] else "minimize",
        sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
        pruner=optuna.pruners.MedianPruner(),
    )
    study.add_trials(
        [
            optuna.trial.create_trial(
                state=_STATES[trial["state"]],
                value=trial["value"] if trial["state"] in {"succeeded", "pruned"} else None,
                params=trial["params"],
                distributions=space,
                intermediate_values=dict(trial["points"]),
            )
            for trial in question["trials"]
        ]
    )
    return study, space


def answer(question: dict[str, Any]) -> Any:
    study, space = study_of(question)
    trial = study.ask(space)
    if question["op"] == "ask":
        return trial.params
    for step, value in question["points"]:
        trial.report(value, step)
    return bool(trial.should_prune())


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for line in sys.stdin:
        try:
            told = json.dumps({"answer": answer(json.loads(line))})
        except Exception as error:  # told to whoever asked
            told = json.dumps({"error": f"{type(error).__name__}: {error}"[:500]})
        sys.stdout.write(told + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
