"""Measures: what is asked of a set, and the number that comes out."""

import array
import base64
import io
import json
import random
import wave
from collections.abc import Callable
from typing import Any

from stratal.cli.catalog.sets import read_sample

_QUIET = 300
Ask = Callable[[list[str]], list[Any]]


def measure(task: str, given: dict[str, Any], ask: Ask) -> dict[str, Any]:
    """`metric`, `value`, `count` and what was missed."""
    if task == "embed":
        return _closer(given["triples"], ask)
    if task in {"sentiment", "language", "sort"}:
        key = "language" if task == "language" else "label"
        told = [one[key] for one in ask([text for _, text in given["texts"]])]
        misses = [
            f"{said} for {wanted}: {text}"
            for said, (wanted, text) in zip(told, given["texts"], strict=True)
            if said != wanted
        ]
        count = len(given["texts"])
        return {"metric": "accuracy", "value": 1 - len(misses) / count, "count": count, "misses": misses}
    if task == "voice":
        return _steps(given, ask)
    if task == "say":
        return _heard(_plain(ask(given["phrases"])), given["phrases"], "word error rate", str.split)
    texts = ask([read_sample(name) for name, _ in given["files"]])
    if task == "faces":
        return _counted([int(one["count"]) for one in texts], given["files"])
    said = _plain(texts)
    wanted = [text for _, text in given["files"]]
    if task == "ocr":
        return _heard(said, wanted, "character error rate", list)
    return _heard(said, wanted, "word error rate", str.split)


def _counted(said: list[int], files: list[tuple[str, int]]) -> dict[str, Any]:
    misses = [
        f"{n} for {wanted}: {name}" for n, (name, wanted) in zip(said, files, strict=True) if n != wanted
    ]
    value = 1 - len(misses) / len(files)
    return {"metric": "pictures counted right", "value": value, "count": len(files), "misses": misses}


def _plain(told: list[Any]) -> list[str]:
    return [" ".join(str(one["text"] if isinstance(one, dict) else one).split()) for one in told]


def _heard(
    said: list[str], wanted: list[str], metric: str, split: Callable[[str], list[str]]
) -> dict[str, Any]:
    wrong = sum(distance(split(a), split(b)) for a, b in zip(said, wanted, strict=True))
    return {
        "metric": metric,
        "value": wrong / sum(len(split(text)) for text in wanted),
        "count": len(wanted),
        "misses": [f"{a!r} for {b!r}" for a, b in zip(said, wanted, strict=True) if a != b],
    }


def _steps(given: dict[str, Any], ask: Ask) -> dict[str, Any]:
    """Each phrase between silence and noise; is each 10 ms of it told right?"""
    names = [name for name, _ in given["files"]]
    made = [between(read_sound(name), number) for number, name in enumerate(names)]
    told = ask([base64.b64encode(sound).decode() for sound, _, _ in made])
    right = count = 0
    misses = []
    for name, (_, truth, steps), one in zip(names, made, told, strict=True):
        segments = json.loads(one["segments"])
        said = [any(s["start"] <= at / 100 < s["end"] for s in segments) for at in range(steps)]
        good = sum(a == (truth[0] <= at < truth[1]) for at, a in enumerate(said))
        right, count = right + good, count + steps
        if good / steps < 0.9:
            misses.append(f"{name}: {good / steps:.0%} of its steps")
    return {"metric": "accuracy of 10 ms steps", "value": right / count, "count": count, "misses": misses}


def read_sound(name: str) -> tuple[int, list[int]]:
    """The rate and the samples of a bundled WAV file."""
    with wave.open(io.BytesIO(base64.b64decode(read_sample(name)))) as file:
        samples = array.array("h", file.readframes(file.getnframes()))
        return file.getframerate(), samples.tolist()


def between(sound: tuple[int, list[int]], number: int) -> tuple[bytes, tuple[int, int], int]:
    """A WAV file with `sound` between stretches of faint noise, where in it the sound is and how many steps of 10 ms
    it has; without the quiet that the sound itself begins and ends with."""
    rate, samples = sound
    loud = [at for at, value in enumerate(samples) if abs(value) > _QUIET]
    samples = samples[loud[0] : loud[-1] + 1] if loud else samples
    noise = random.Random(number)  # noqa: S311 - the same noise each time
    lead, tail = (int(rate * noise.uniform(0.8, 2.0)) for _ in range(2))
    whole = [0] * lead + samples + [0] * tail
    loudness = 40 * (number % 3)
    mixed = array.array(
        "h", (max(-32768, min(32767, v + round(noise.gauss(0, 1) * loudness))) for v in whole)
    )
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(mixed.tobytes())
    step = rate // 100
    return out.getvalue(), (lead // step, (lead + len(samples)) // step), len(whole) // step


def _closer(triples: list[list[str]], ask: Ask) -> dict[str, Any]:
    vectors = ask([text for triple in triples for text in triple])
    misses = []
    for number, triple in enumerate(triples):
        first, alike, other = vectors[3 * number : 3 * number + 3]
        if _product(first, alike) <= _product(first, other):
            misses.append(triple[0])
    count = len(triples)
    return {"metric": "accuracy", "value": 1 - len(misses) / count, "count": count, "misses": misses}


def _product(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def distance(one: list[str], other: list[str]) -> int:
    """How many pieces must be changed, added or removed to make one list the other (Levenshtein)."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        above, row = row, [i]
        for j, b in enumerate(other, start=1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b)))
    return row[-1]
