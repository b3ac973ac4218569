"""Files that come below a prefix, each brought in once: rows into a table, pictures and sounds into a table about them.

What was brought in is what the table holds: each row says from which object and which version of it it is. So a file
that has come since is read, one that was changed takes the place of its own rows, and nothing else is to be kept or lost.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from stratal.sdk.pipelines import lake
from stratal.sdk.pipelines.ingestion import (
    Evolve,
    Format,
    Ingested,
    Sorted,
    TooManyBadRows,
    format_of,
    quoted,
    read_rows,
    sorted_out,
)
from stratal.sdk.pipelines.values import Object, Table

SOURCE, VERSION = "source", "source_version"
_REASON = 300
_AT_ONCE = 64 * 1024 * 1024


def ingest_objects(
    objects: Sequence[Object],
    into: str,
    *,
    format: Format | None = None,
    columns: Mapping[str, str] | None = None,
    most_bad: float = 0.1,
    delimiter: str = ",",
    sheet: str | int = 0,
    evolve: Evolve = "refuse",
) -> Ingested:
    """Bring the rows of those `objects` into the table `into` that it does not have yet; see `ingest`.

    The columns ``source`` and ``source_version`` say where a row is from. The rows of an object that was changed take the
    place of those it had; those of one that is gone stay. Raises as `ingest`.
    """
    known, wanted = _unknown(objects, into)
    types = {**(columns or {}), SOURCE: "text", VERSION: "text"}
    done = Ingested(Table(into), 0, 0, None)
    for some in _portions(wanted):
        read: list[tuple[int, Any, str | None]] = []
        whose: list[Object] = []
        for one, data in some:
            chosen = format or format_of(one.key, data)
            if chosen == "parquet":
                raise ValueError(f"{one.location} is Parquet: bring such files in one by one, with ingest.")
            found = list(read_rows(data, chosen, delimiter, sheet))
            read += [(line, _marked(row, one), reason) for line, row, reason in found]
            whose += [one] * len(found)
        name = some[0][0].location + (f" and {len(some) - 1} more" if len(some) > 1 else "")
        result = sorted_out(name, read, into, columns=types, most_bad=most_bad, evolve=evolve)
        changed = [one.location for one, _ in some if one.location in known]
        done = _written(into, result, whose, changed, done)
    return done


def _written(
    into: str, result: Sorted, whose: Sequence[Object], changed: Sequence[str], done: Ingested
) -> Ingested:
    table, aside = done.table, done.bad_table
    bad = [
        {
            **{SOURCE: whose[number].location, VERSION: whose[number].etag},
            **{
                "line": line,
                "reason": reason,
                "row": json.dumps(row, ensure_ascii=False, default=str)[:10_000],
            },
        }
        for number, line, row, reason in result.bad
    ]
    if changed:
        _forget(into, changed)
        _forget(f"{into}_bad", changed)
    if bad:
        aside = lake.write(Table(f"{into}_bad"), bad, "extend")
    if result.good:
        table = result.changes.write(Table(into), result.good, "append")
    return Ingested(table, done.rows + len(result.good), done.bad + len(bad), aside)


def ingest_images(objects: Sequence[Object], into: str, *, most_bad: float = 0.5) -> Ingested:
    """Bring what is to be known about pictures into the table `into`: source, version, SHA-256, bytes, format, width,
    height, mode and frames of each. Each is decoded whole, with Pillow, which the step's environment has; those that
    cannot be go to ``<into>_bad`` with the reason. The pictures stay where they are. Raises `TooManyBadRows`.
    """
    return _media(objects, into, _image, most_bad)


def ingest_audio(objects: Sequence[Object], into: str, *, most_bad: float = 0.5) -> Ingested:
    """Bring what is to be known about sounds into the table `into`: source, version, SHA-256, bytes, format, encoding,
    seconds, sample rate, channels and frames of each. Each is decoded whole, with soundfile, which the step's environment
    has (and NumPy with it); see `ingest_images`.
    """
    return _media(objects, into, _sound, most_bad)


def _image(data: bytes) -> dict[str, Any]:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        return {
            "format": picture.format or "",
            "width": picture.width,
            "height": picture.height,
            "mode": picture.mode,
            "frames": getattr(picture, "n_frames", 1),
        }


def _sound(data: bytes) -> dict[str, Any]:
    import soundfile

    with soundfile.SoundFile(io.BytesIO(data)) as sound:
        frames = 0
        while some := len(sound.read(1 << 16)):
            frames += some
        if frames < sound.frames:
            raise ValueError(f"it breaks off: {frames} of {sound.frames} frames")
        return {
            "format": sound.format,
            "encoding": sound.subtype,
            "seconds": round(frames / sound.samplerate, 6),
            "sample_rate": sound.samplerate,
            "channels": sound.channels,
            "frames": frames,
        }


def _media(
    objects: Sequence[Object], into: str, decoded: Callable[[bytes], dict[str, Any]], most_bad: float
) -> Ingested:
    known, wanted = _unknown(objects, into)
    good: list[dict[str, Any]] = []
    bad: list[dict[str, Any]] = []
    for one in wanted:
        data = one.read()
        about = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        try:
            good.append({SOURCE: one.location, VERSION: one.etag, **about, **decoded(data)})
        except (OSError, ValueError, RuntimeError, SyntaxError, EOFError) as error:
            words = str(error).replace(repr(data), "")  # nothing of the bytes
            reason = f"{type(error).__name__}: {words}"[:_REASON]
            bad.append({SOURCE: one.location, VERSION: one.etag, **about, "reason": reason})
    if len(bad) > most_bad * max(len(wanted), 1):
        raise TooManyBadRows(
            f"{len(bad)} of {len(wanted)} files cannot be decoded, for example {bad[0][SOURCE]}: {bad[0]['reason']}"
        )
    changed = [one.location for one in wanted if one.location in known]
    if changed:
        _forget(into, changed)
        _forget(f"{into}_bad", changed)
    aside = lake.write(Table(f"{into}_bad"), bad, "extend") if bad else None
    table = lake.write(Table(into), good, "append") if good else Table(into)
    return Ingested(table, len(good), len(bad), aside)


def _portions(objects: Sequence[Object]) -> Iterator[list[tuple[Object, bytes]]]:
    """The objects with their bytes, at least one and about 64 MiB at once."""
    some: list[tuple[Object, bytes]] = []
    size = 0
    for one in objects:
        data = one.read()
        some.append((one, data))
        size += len(data)
        if size >= _AT_ONCE:
            yield some
            some, size = [], 0
    if some:
        yield some


def _marked(row: Any, one: Object) -> Any:
    if not isinstance(row, dict):
        return row  # what is no row goes aside
    taken = next((name for name in (SOURCE, VERSION) if name in row), None)
    if taken is not None:
        raise ValueError(f"{one.location} has a column {taken}, which says here where a row is from.")
    return {**row, SOURCE: one.location, VERSION: one.etag}


def _unknown(objects: Sequence[Object], into: str) -> tuple[dict[str, str | None], list[Object]]:
    """What the table (or the one beside it) has of objects, and those of which it does not have this version."""
    known = {**_versions(f"{into}_bad"), **_versions(into)}
    return known, [one for one in objects if one.location not in known or known[one.location] != one.etag]


def _versions(into: str) -> dict[str, str | None]:
    """Of which objects the table has something, and of which version."""
    try:
        rows = lake.read_sql(f"SELECT DISTINCT {SOURCE}, {VERSION} FROM {_place(into)}")  # noqa: S608 (quoted names)
    except Exception as error:
        if lake.is_missing(error):
            return {}
        raise
    return {row[SOURCE]: row[VERSION] for row in rows}


def _forget(into: str, locations: Sequence[str]) -> None:
    """Take the rows of these objects out of the table."""
    if not lake.types(Table(into)):
        return
    listed = ", ".join("'" + one.replace("'", "''") + "'" for one in locations)
    text = f"SELECT * FROM {_place(into)} WHERE {SOURCE} NOT IN ({listed})"  # noqa: S608 (quoted names and texts)
    lake.write_sql(into, text, "replace", [])


def _place(into: str) -> str:
    """How SQL names the table, as this step has left it."""
    here = lake.current()
    return here.at(".".join(map(quoted, into.split("."))), here.written.get(into, Table(into)).snapshot)
