"""Checks that need no statistics of a good model: leaks, labels, baselines. Each says why in words.

A check answers ``{"name", "passed", "said"}``. The same functions are run on planted faults, so that a run
shows that they can fail.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

Json = dict[str, Any]


def single_feature(
    frame: pd.DataFrame, target: str, *, limit: float, without: Iterable[str] = (), kind: str = "class"
) -> Json:
    """No feature alone tells the target: an area under the ROC curve (or, for numbers, a rank correlation) over `limit`.

    `limit` is declared by each solution: well over its strongest honest feature.
    """
    worst, name = 0.0, "none"
    y = frame[target].to_numpy(dtype=float)
    for column in frame.columns:
        if column == target or column in set(without):
            continue
        values = _numeric(frame[column])
        if values is None:
            continue
        strength = _auc(values, y) if kind == "class" else abs(_rank_correlation(values, y))
        if strength > worst:
            worst, name = strength, str(column)
    what = "area under the ROC curve" if kind == "class" else "rank correlation"
    said = f"the strongest single feature is {name}: {what} {worst:.4f}, limit {limit}"
    return {"name": "single feature", "passed": worst <= limit, "said": said}


def overlap(train: Sequence[Any], test: Sequence[Any], *, what: str) -> Json:
    """Nothing that is tested was trained on."""
    both = set(train) & set(test)
    shown = f", {sorted(map(str, both))[0][:60]} among them" if both else ""
    said = f"{len(both)} of {len(set(test))} tested {what} were trained on{shown}"
    return {"name": f"{what} apart", "passed": not both, "said": said}


def in_order(train_times: Any, test_times: Any) -> Json:
    """Everything trained on is older than everything tested."""
    last, first = max(train_times), min(test_times)
    return {
        "name": "time order",
        "passed": bool(last < first),
        "said": f"the last trained moment is {last}, the first tested {first}",
    }


def truncation(whole: Any, cut: Any, *, what: str) -> Json:
    """Features of a moment are the same when everything after that moment is deleted before they are made."""
    a, b = np.asarray(whole, dtype=float), np.asarray(cut, dtype=float)
    same = a.shape == b.shape and bool(np.allclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True))
    said = f"the same ({a.size} values)" if same else f"others: {_difference(a, b)}"
    return {"name": "truncation", "passed": same, "said": f"{what} made without the future are {said}"}


def _difference(a: Any, b: Any) -> str:
    if a.shape != b.shape:
        return f"{a.shape} and {b.shape}"
    missing = int((np.isnan(a) != np.isnan(b)).sum())
    differ = ~np.isclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True) & ~np.isnan(a) & ~np.isnan(b)
    said = [f"{missing} values are there only in one of them"] if missing else []
    if differ.any():
        said.append(f"{int(differ.sum())} differ, by up to {float(np.abs(a - b)[differ].max()):.4g}")
    return ", ".join(said)


def labels(kept: pd.DataFrame, source: pd.DataFrame, key: str, column: str) -> Json:
    """The labels trained on are those of the source, row by row."""
    told = source.set_index(key)[column]
    used = kept.set_index(key)[column]
    known = used.index.isin(told.index)
    wrong = int((told.reindex(used.index[known]).to_numpy() != used[known].to_numpy()).sum())
    unknown = int((~known).sum())
    said = f"{wrong} of {len(used)} labels differ from the source's, {unknown} rows are not in it"
    return {"name": "labels", "passed": wrong == 0 and unknown == 0, "said": said}


def beats_itself_shuffled(
    measure: Callable[[Any, Any], float], truth: Any, answers: Any, *, better: str, rounds: int = 39
) -> Json:
    """The baseline knows something: it does better than its own answers dealt out at random, at a level of 5 %.

    A baseline that is broken (answers in the wrong order, constant, not numbers) makes any candidate look good.
    """
    rng = np.random.default_rng(0)
    truth, answers = np.asarray(truth), np.asarray(answers)
    real = float(measure(truth, answers))
    if not np.isfinite(real):
        return {"name": "baseline", "passed": False, "said": f"the baseline's measure is {real}"}
    dealt = [float(measure(truth, rng.permutation(answers))) for _ in range(rounds)]
    wins = sum(real > other if better == "higher" else real < other for other in dealt)
    best = max(dealt) if better == "higher" else min(dealt)
    said = f"the baseline has {real:.4f}; its answers dealt out at random at best {best:.4f} ({wins} of {rounds} beaten)"
    return {"name": "baseline", "passed": (rounds - wins + 1) / (rounds + 1) <= 0.05, "said": said}


def checksum(got: str, expected: str) -> Json:
    """The source is the edition that ``solution.toml`` declares."""
    same = bool(expected) and got == expected
    said = f"the source's checksum is {got[:16]}…, declared is {expected[:16] or 'none'}…"
    return {"name": "checksum", "passed": same, "said": said}


def digest_of(frame: pd.DataFrame) -> str:
    """The checksum of a table's values, column by column: the same whatever file they came in."""
    digest = hashlib.sha256()
    for column in frame.columns:
        digest.update(str(column).encode() + b"\0")
        values = frame[column]
        if pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
            digest.update(np.ascontiguousarray(values.to_numpy(dtype="<f8", na_value=np.nan)).tobytes())
        else:
            digest.update("\n".join(map(str, values)).encode())
    return digest.hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _numeric(column: pd.Series) -> Any:
    if pd.api.types.is_bool_dtype(column) or pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(dtype=float, na_value=np.nan)
    if column.nunique() <= 50:
        return pd.factorize(column, sort=True)[0].astype(float)
    return None


def _auc(values: Any, y: Any) -> float:
    from scipy.stats import rankdata

    keep = np.isfinite(values)
    ranks, hits = rankdata(values[keep]), y[keep] == 1
    n1, n0 = int(hits.sum()), int((~hits).sum())
    if not n1 or not n0:
        return 0.5
    area = (ranks[hits].sum() - n1 * (n1 + 1) / 2) / (n1 * n0)
    return float(max(area, 1 - area))


def _rank_correlation(values: Any, y: Any) -> float:
    from scipy.stats import rankdata

    keep = np.isfinite(values) & np.isfinite(y)
    if keep.sum() < 3 or np.ptp(values[keep]) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(values[keep]), rankdata(y[keep]))[0, 1])
