"""Lays a snapshot of passages out for `matrix.Matrix`: run as a process of its own, so that its memory is given back.

``python -m stratal.engines.retrieval.pack ROWS FOLDER`` reads an Arrow stream and makes the folder. Vectors are written as
32-bit numbers, one after the other; where the words stand, once for each (passage, word) and ordered by word; what is told
of a passage as a line of JSON.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stratal.engines.retrieval.matrix import TOLD, word_key


def main(source: str, folder: str) -> None:
    with pa.memory_map(source) as file, pa.ipc.open_stream(file) as stream:
        lay_out(stream, Path(folder))


def lay_out(batches: Iterator[Any], folder: Path) -> None:
    """Write the files; `meta.json` is the last of them."""
    ids: list[int] = []
    lengths: list[int] = []
    counts: list[Any] = []
    lines = [0]
    documents: dict[str, int] = {}
    of_document: list[int] = []
    words: dict[str, int] = {}
    stands: list[Any] = []
    width = 0
    with (
        (folder / "wholes.f32").open("wb") as wholes,
        (folder / "parts.f32").open("wb") as parts,
        (folder / "told.jsonl").open("wb") as told,
    ):
        for batch in batches:
            if not batch.num_rows:
                continue
            vectors = _numbers(batch.column("embedding").flatten())
            width = len(vectors) // batch.num_rows
            vectors.tofile(wholes)
            part_vectors = batch.column("part_embeddings")
            counts.append(np.asarray(pc.fill_null(pc.list_value_length(part_vectors), 0)))
            _numbers(part_vectors.flatten().flatten()).tofile(parts)
            stands.append(_stands(batch.column("terms"), len(ids), words))
            lengths += batch.column("length").to_pylist()
            ids += batch.column("id").to_pylist()
            for row in batch.select(list(TOLD)).to_pylist():
                of_document.append(documents.setdefault(row["document"], len(documents)))
                line = json.dumps(row, ensure_ascii=False).encode()
                told.write(line)
                lines.append(lines[-1] + len(line))
    _save(folder, "ids", np.array(ids, np.int64))
    _save(folder, "lengths", np.array(lengths, np.int64))
    _save(folder, "documents", np.array(of_document, np.int64))
    _save(folder, "lines", np.array(lines, np.int64))
    _save(
        folder, "bounds", np.concatenate([[0], np.cumsum(np.concatenate([np.zeros(0, np.int64), *counts]))])
    )
    _words(folder, words, stands)
    meta = {"rows": len(ids), "width": width, "documents": list(documents)}
    (folder / "meta.json").write_text(json.dumps(meta, ensure_ascii=False))


def _numbers(values: Any) -> Any:
    return np.asarray(values).astype(np.float32, copy=False)


def _stands(column: Any, first: int, words: dict[str, int]) -> Any:
    """(word, passage, how often) of each word in each passage, as columns of an array."""
    sizes = np.asarray(pc.fill_null(pc.list_value_length(column), 0))
    encoded = pc.dictionary_encode(column.flatten())
    known = np.array(
        [words.setdefault(word, len(words)) for word in encoded.dictionary.to_pylist()], np.int64
    )
    rows = np.repeat(np.arange(first, first + len(sizes)), sizes)
    both = np.stack([known[np.asarray(encoded.indices)], rows]) if len(rows) else np.zeros((2, 0), np.int64)
    found, times = np.unique(both, axis=1, return_counts=True)
    return np.vstack([found, times]).astype(np.int32)


def _words(folder: Path, words: dict[str, int], stands: list[Any]) -> None:
    """Each word's key in order, where its passages begin, and these with how often it stands in each."""
    keys = np.fromiter(map(word_key, words), np.uint64, len(words))
    order = np.argsort(keys)
    place = np.empty(len(words), np.int64)
    place[order] = np.arange(len(words))
    all_of = np.concatenate([np.zeros((3, 0), np.int32), *stands], axis=1)
    of_word = place[all_of[0]]
    by_word = np.argsort(of_word, kind="stable")
    _save(folder, "words", keys[order])
    _save(folder, "starts", np.concatenate([[0], np.cumsum(np.bincount(of_word, minlength=len(words)))]))
    _save(folder, "where", all_of[1][by_word])
    _save(folder, "times", all_of[2][by_word])


def _save(folder: Path, name: str, values: Any) -> None:
    np.save(folder / f"{name}.npy", values)


if __name__ == "__main__":
    main(*sys.argv[1:])
