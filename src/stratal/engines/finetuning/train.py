"""Fits a head on a frozen encoder's embeddings, holds it against the base model, and registers it.

Run in a job's sandbox. The encoder is asked at its endpoint, so it is the very model that is served; the new version
names the encoder's own files and adds the head. A fifth of the rows (by the hash of their text, so the same text is never
on both sides) is held out: on it the head and the base model are measured, the base by what it can do untrained.
"""

import base64
import hashlib
import json
import math
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import numpy as np
from numpy.typing import NDArray

Json = dict[str, Any]
Array = NDArray[np.float64]
BATCH = 64
LEAST = 10
MOST_ROWS = 200_000
HELD_OUT = 0.2
REQUIREMENTS = "numpy==2.4.6\nsafetensors==0.8.0\ntokenizers==0.23.3\n"


class CannotTrain(Exception):
    """The message is for people."""


def main(wish: Json) -> None:
    first, second = read_rows(wish)
    aim = wish["aim"]
    print(f"{len(first)} rows", flush=True)
    held = np.array([held_out(text, int(wish["seed"])) for text in first])
    if held.sum() < LEAST or (~held).sum() < LEAST:
        raise CannotTrain(f"At least {LEAST} rows to train on and {LEAST} to hold out are needed.")
    left = embed(wish["encoder"], first)
    if aim == "classify":
        head, options, metrics = classifier(left, second, held)
    else:
        head, options, metrics = projection(left, embed(wish["encoder"], second), held, int(wish["seed"]))
    params = {
        "aim": aim,
        "base": wish["base"],
        "source": wish["source"],
        "rows": len(first),
        "seed": wish["seed"],
    }
    run = track(wish["name"], params, metrics)
    version = register(wish, head, options, metrics, run)
    if wish.get("endpoint"):
        deploy(wish, version)
    print(
        "RESULT " + json.dumps({"model": wish["name"], "version": version, "run": run, "metrics": metrics}),
        flush=True,
    )


def held_out(text: str, seed: int) -> bool:
    digest = hashlib.sha256(f"{seed}:{text}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < HELD_OUT


# -- heads ----------------------------------------------------------------------------------------


def classifier(vectors: Array, labels: list[str], held: NDArray[np.bool_]) -> tuple[Json, Json, Json]:
    """Multinomial logistic regression; its strength is chosen by cross-validation on the training rows alone."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.metrics import accuracy_score, f1_score

    classes = sorted(set(labels))
    answers = np.array([classes.index(label) for label in labels])
    if not 2 <= len(classes) <= 1000:
        raise CannotTrain(f"There are {len(classes)} classes; 2 to 1,000 are told apart.")
    counts = np.bincount(answers[~held], minlength=len(classes))
    if counts.min() < 3:
        raise CannotTrain(f"The class {classes[int(counts.argmin())]!r} has fewer than 3 rows to train on.")
    folds = int(min(5, counts.min()))
    model = LogisticRegressionCV(
        Cs=np.logspace(-2, 3, 6), cv=folds, max_iter=2000, scoring="neg_log_loss", use_legacy_attributes=False,
        l1_ratios=(0.0,),
    )  # fmt: skip
    model.fit(vectors[~held], answers[~held])
    weight, bias = np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)
    if len(classes) == 2:
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    told = (vectors[held] @ weight.T + bias).argmax(1)
    # The base, untrained: the class whose texts' mean embedding lies nearest.
    means = np.stack([vectors[~held][answers[~held] == number].mean(0) for number in range(len(classes))])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    near = (vectors[held] @ means.T).argmax(1)
    commonest = np.full(len(told), counts.argmax())
    metrics: Json = {"held_out_rows": int(held.sum())}
    for name, found in (("", told), ("base_", near), ("commonest_", commonest)):
        metrics[f"{name}accuracy"] = float(accuracy_score(answers[held], found))
        metrics[f"{name}macro_f1"] = float(f1_score(answers[held], found, average="macro", zero_division=0.0))
    head = {"weight": weight.astype("f4"), "bias": bias.astype("f4")}
    return head, {"classes": classes}, metrics


def projection(left: Array, right: Array, held: NDArray[np.bool_], seed: int) -> tuple[Json, Json, Json]:
    """A linear map, begun at the identity: pairs lie closer than the other rows of their batch (InfoNCE, Adam)."""
    train_left, train_right = left[~held], right[~held]
    width = left.shape[1]
    weight = np.eye(width)
    mean, spread = np.zeros_like(weight), np.zeros_like(weight)
    chance = np.random.default_rng(seed)
    step, best, kept, patience = 0, -1.0, weight.copy(), 0
    inner = chance.random(len(train_left)) < 0.15  # tells when to stop; neither fitted nor held out
    if inner.sum() < 5:
        inner[:] = False
    rows = np.flatnonzero(~inner)
    for _ in range(200):
        chance.shuffle(rows)
        for start in range(0, len(rows), 64):
            at = rows[start : start + 64]
            if len(at) < 2:
                continue
            step += 1
            gradient = _gradient(weight, train_left[at], train_right[at]) + 1e-3 * (weight - np.eye(width))
            mean, spread = 0.9 * mean + 0.1 * gradient, 0.999 * spread + 0.001 * gradient**2
            weight -= 1e-3 * (mean / (1 - 0.9**step)) / (np.sqrt(spread / (1 - 0.999**step)) + 1e-8)
        seen = inner if inner.any() else np.ones(len(train_left), bool)
        mark = retrieval(train_left[seen] @ weight, train_right[seen] @ weight)["mrr"]
        if mark > best + 1e-4:
            best, kept, patience = mark, weight.copy(), 0
        else:
            patience += 1
            if patience == 5:
                break
    metrics: Json = {"held_out_rows": int(held.sum())}
    metrics |= retrieval(left[held] @ kept, right[held] @ kept)
    metrics |= {f"base_{name}": value for name, value in retrieval(left[held], right[held]).items()}
    return {"projection": kept.astype("f4")}, {}, metrics


def _gradient(weight: Array, left: Array, right: Array) -> Array:
    """Of the mean InfoNCE loss (both ways, temperature 0.05) with respect to the map."""
    a, b = left @ weight, right @ weight
    size_a, size_b = np.linalg.norm(a, axis=1, keepdims=True), np.linalg.norm(b, axis=1, keepdims=True)
    u, v = a / size_a, b / size_b
    scores = u @ v.T / 0.05
    wanted = np.eye(len(a))
    pull = (_softmax(scores) - wanted + (_softmax(scores.T) - wanted).T) / (2 * len(a) * 0.05)
    du, dv = pull @ v, pull.T @ u
    da = (du - u * (du * u).sum(1, keepdims=True)) / size_a
    db = (dv - v * (dv * v).sum(1, keepdims=True)) / size_b
    found: Array = left.T @ da + right.T @ db
    return found


def _softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    found: Array = powers / powers.sum(1, keepdims=True)
    return found


def retrieval(left: Array, right: Array) -> Json:
    """How well each text finds its partner among all of them."""
    u = left / np.maximum(np.linalg.norm(left, axis=1, keepdims=True), 1e-12)
    v = right / np.maximum(np.linalg.norm(right, axis=1, keepdims=True), 1e-12)
    scores = u @ v.T
    ranks = (scores > np.diag(scores)[:, None]).sum(1) + 1
    return {"recall_at_1": float((ranks == 1).mean()), "mrr": float((1 / ranks).mean())}


# -- the platform ---------------------------------------------------------------------------------


def read_rows(wish: Json) -> tuple[list[str], list[str]]:
    bucket, _, key = wish["source"].removeprefix("s3://").partition("/")
    project = urllib.parse.quote(os.environ["STRATAL_PROJECT"], safe="")
    query = urllib.parse.urlencode({"key": key})
    data = ask("GET", f"/api/v1/projects/{project}/buckets/{urllib.parse.quote(bucket)}/object?{query}")
    first: list[str] = []
    second: list[str] = []
    for number, line in enumerate(data.decode("utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            one, other = row_of(json.loads(line), wish["columns"])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise CannotTrain(f"Line {number} of {wish['source']}: {why_not(error)}.") from None
        first.append(one)
        second.append(other)
        if len(first) > MOST_ROWS:
            raise CannotTrain(f"At most {MOST_ROWS} rows are taken.")
    return first, second


def why_not(error: Exception) -> str:
    if isinstance(error, KeyError):
        roles = {"user": "no message of the user", "assistant": "no message of the assistant"}
        return "it has " + roles.get(str(error.args[0]), f"no {error.args[0]!r}")
    return "it is not a JSON object" if isinstance(error, TypeError) else str(error)


def row_of(row: Json, columns: Json) -> tuple[str, str]:
    """The two texts of a row; of a chat, what the last user said and what was answered."""
    if "messages" in row:
        said = {one["role"]: one["content"] for one in row["messages"]}
        one, other = said["user"], said["assistant"]
    else:
        one, other = row[columns["first"]], row[columns["second"]]
    if not isinstance(one, str) or not one.strip():
        raise ValueError("the text is empty or none")
    return one, str(other)


def embed(endpoint: str, texts: list[str]) -> Array:
    found = []
    for start in range(0, len(texts), BATCH):
        asked = {"model": endpoint, "input": texts[start : start + BATCH], "encoding_format": "base64"}
        answer = json.loads(ask("POST", "/v1/embeddings", json.dumps(asked).encode()))
        found += [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in answer["data"]]
    print(f"embedded {len(texts)} texts", flush=True)
    return np.stack(found).astype("f8")


def track(name: str, params: Json, metrics: Json) -> str:
    """A run with the parameters and the numbers, as any training has one."""
    here = "/api/2.0/mlflow"
    try:
        made = json.loads(
            ask("POST", f"{here}/experiments/create", json.dumps({"name": f"finetune/{name}"}).encode())
        )
    except RuntimeError:
        query = urllib.parse.urlencode({"experiment_name": f"finetune/{name}"})
        made = json.loads(ask("GET", f"{here}/experiments/get-by-name?{query}"))["experiment"]
    now = int(time.time() * 1000)
    begun = {"experiment_id": made["experiment_id"], "start_time": now, "run_name": name}
    run = json.loads(ask("POST", f"{here}/runs/create", json.dumps(begun).encode()))["run"]["info"]["run_id"]
    logged = {
        "run_id": run,
        "params": [{"key": key, "value": str(value)} for key, value in params.items()],
        "metrics": [
            {"key": key, "value": value, "timestamp": now, "step": 0} for key, value in metrics.items()
        ],
    }
    ask("POST", f"{here}/runs/log-batch", json.dumps(logged).encode())
    ended = {"run_id": run, "status": "FINISHED", "end_time": int(time.time() * 1000)}
    ask("POST", f"{here}/runs/update", json.dumps(ended).encode())
    return str(run)


def register(wish: Json, head: Json, options: Json, metrics: Json, run: str) -> int:
    """The encoder's own files by their checksums, and the head, as the next version of the model."""
    import safetensors.numpy

    project, name = (
        urllib.parse.quote(one, safe="") for one in (os.environ["STRATAL_PROJECT"], wish["name"])
    )
    kind = {"classify": "minilm-classifier", "embed": "minilm-projection"}[wish["aim"]]
    described = {
        "entry": wish["name"],
        "task": wish["aim"],
        "implementation": kind,
        "source": f"a head on {wish['base']}, fine-tuned by run {run}",
        "options": options,
        "package_files": {},
    }
    told = "\n".join(f"- {key}: {value:g}" for key, value in metrics.items() if math.isfinite(value))
    card = f"# {wish['name']}\n\nA head on {wish['base']}, from {wish['source']} (run {run}).\n\nOn held-out rows:\n{told}\n"
    files = {
        "stratal.json": json.dumps(described, indent=1).encode(),
        "requirements.txt": REQUIREMENTS.encode(),
        "README.md": card.encode(),
        "head.safetensors": safetensors.numpy.save(
            {key: np.ascontiguousarray(value) for key, value in head.items()}
        ),
    }
    lines: list[Json] = [
        {
            "key": "header",
            "value": {"summary": f"Fine-tuned from {wish['base']}", "description": f"Run {run}."},
        }
    ]
    for path, data in files.items():
        value = {"path": path, "content": base64.b64encode(data).decode(), "encoding": "base64"}
        lines.append({"key": "file", "value": value})
    for file in wish["files"]:
        if file["path"] not in files:
            value = {"path": file["path"], "algo": "sha256", "oid": file["sha256"], "size": file["size"]}
            lines.append({"key": "lfsFile", "value": value})
    body = b"\n".join(json.dumps(line).encode() for line in lines)
    try:
        ask("POST", "/hub/api/repos/create", json.dumps({"name": wish["name"]}).encode())
    except RuntimeError as error:
        if " 409 " not in str(error):
            raise
    ask("POST", f"/hub/api/models/{project}/{name}/commit/main", body)
    found = json.loads(ask("GET", f"/api/v1/projects/{project}/models/{name}"))
    return int(found["versions"][0]["version"])


def deploy(wish: Json, version: int) -> None:
    """Let an endpoint answer with it, and wait until it does."""
    project = urllib.parse.quote(os.environ["STRATAL_PROJECT"], safe="")
    here = f"/api/v1/projects/{project}/endpoints"
    asked = {"name": wish["endpoint"], "model": f"models:/{wish['name']}/{version}"}
    ask("POST", here, json.dumps(asked).encode())
    for _ in range(3600):
        seen = json.loads(ask("GET", f"{here}/{urllib.parse.quote(wish['endpoint'], safe='')}"))
        if seen["latest"]["state"] not in ("preparing", "starting"):
            break
        time.sleep(1)
    if seen["latest"]["state"] != "active":
        raise CannotTrain(f"It does not answer: {seen['latest']['failure']}")
    print(f"endpoint {wish['endpoint']} answers with it", flush=True)


def ask(method: str, path: str, body: bytes | None = None) -> bytes:
    """What the platform answers; what is busy or away for a moment is asked again."""
    for attempt in range(6):
        request = urllib.request.Request(os.environ["STRATAL_URL"] + path, body, method=method)  # noqa: S310
        request.add_header("Authorization", "Bearer " + os.environ["STRATAL_API_KEY"])
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:  # noqa: S310 - the platform's own address
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            if error.code not in (429, 503) or attempt == 5:
                raise RuntimeError(f"{method} {path}: {error.code} {said[:500]}") from None
        except urllib.error.URLError:
            if attempt == 5:
                raise
        time.sleep(2**attempt)
    raise AssertionError


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except CannotTrain as error:
        sys.exit(str(error))
