"""How values are shown: times, durations, sizes, numbers, states. Pure functions; the templates' filters."""

import json
import math
from datetime import UTC, datetime
from typing import Any

_LONGEST = 2000
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")

# Every state anything can be in, to one of the five shapes that a state is drawn with.
_SHAPES = {
    "running": "run",
    "starting": "run",
    "deploying": "run",
    "waking": "run",
    "preparing": "run",
    "stopping": "run",
    "succeeded": "done",
    "cached": "done",
    "finished": "done",
    "ready": "done",
    "verified": "done",
    "serving": "done",
    "active": "done",
    "awake": "done",
    "failed": "fail",
    "failing": "fail",
    "dead": "fail",
    "broken": "fail",
    "missing": "fail",
    "unhealthy": "fail",
    "error": "fail",
    "queued": "wait",
    "waiting": "wait",
    "scheduled": "wait",
    "pending": "wait",
    "idle": "wait",
    "asleep": "wait",
    "sleeping": "wait",
    "pruned": "wait",
}
_NAMES = {"succeeded": "Done", "finished": "Done", "scheduled": "Queued", "killed": "Stopped"}


def shape(state: object) -> str:
    """``run``, ``done``, ``fail``, ``wait`` or ``off``: the shape and colour that `state` is drawn with."""
    return _SHAPES.get(str(state or "").lower(), "off")


def state_name(state: object) -> str:
    """The word people read for a state: one word for one idea, whatever a protocol calls it."""
    word = str(state or "unknown").lower()
    return _NAMES.get(word, word.replace("_", " ").capitalize())


def moment(value: Any) -> datetime | None:
    """A time out of what APIs send (ISO 8601, or epoch milliseconds); None when it is neither."""
    if isinstance(value, bool) or value in (None, "", 0):
        return None
    try:
        if isinstance(value, (int, float)):
            return datetime.fromtimestamp(value / 1000, UTC)
        parsed = datetime.fromisoformat(str(value))
    except (ValueError, OverflowError, OSError):
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def exact(value: Any) -> str:
    """The time to the second, in UTC, as titles show it."""
    at = moment(value)
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if at else ""


def ago(value: Any, now: datetime) -> str:
    """How long ago, in the one unit that matters; a date once that is more than 30 days."""
    at = moment(value)
    if at is None:
        return ""
    seconds = (now - at).total_seconds()
    if seconds < 5:
        return "just now" if seconds > -60 else exact(value)
    for limit, size, unit in ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h"), (30 * 86400, 86400, "d")):
        if seconds < limit:
            return f"{int(seconds // size)} {unit} ago"
    return f"{at.day} {at:%b %Y}"


def duration(seconds: Any) -> str:
    """``80ms``, ``4.2s``, ``42s``, ``10m 26s``, ``3h 05m``, ``2d 04h``; empty when unknown."""
    if not _is_real(seconds):
        return ""
    if seconds < 1:
        return f"{max(round(seconds * 1000), 0)}ms"
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"


def _is_real(value: Any) -> bool:
    """A figure to reckon with: no truth value, not endless, not NaN."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**80


def between(start: Any, end: Any, now: datetime) -> float | None:
    """Seconds from `start` to `end`, or to now when it has not ended; None when it has not started."""
    begin = moment(start)
    if begin is None:
        return None
    return ((moment(end) or now) - begin).total_seconds()


def size(count: Any) -> str:
    """Bytes in binary units: ``512 B``, ``1.5 KiB``; empty when unknown."""
    if not _is_real(count):
        return ""
    value = float(count)
    for unit in _UNITS:
        if abs(value) < 1024 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def number(value: Any) -> str:
    """A figure people can compare in a column: four significant digits, the exponent only where it helps."""
    if isinstance(value, str) and value in {"NaN", "Infinity", "-Infinity"}:
        return value.replace("Infinity", "∞")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value) if value is not None else ""
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e9):
        return f"{int(value):,}".replace(",", "\u2009")
    if not math.isfinite(value):
        return {"nan": "NaN", "inf": "∞", "-inf": "-∞"}[str(value)]
    if 1e-3 <= abs(value) < 1e6:
        return f"{value:.4f}" if abs(value) < 10 else f"{value:.6g}"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{exponent}"


def short(identifier: Any, length: int = 8) -> str:
    """The beginning of a long hash or id, enough to recognise it."""
    text = str(identifier or "")
    return text[:length] if len(text) > length else text


def plural(count: int, one: str, many: str = "") -> str:
    """``1 job``, ``3 jobs``, ``1 entry``."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def written(value: Any, most: int = 20_000) -> str:
    """A value as JSON, a list's items each on a line, cut where it grows past `most` characters.

    Plain text, which templates escape. (Jinja's own ``tojson`` marks its text as safe: in an attribute it is not.)
    """
    if isinstance(value, list):
        text = "[\n" + ",\n".join(f"  {json.dumps(item, ensure_ascii=False)}" for item in value) + "\n]"
    else:
        text = json.dumps(value, indent=2, ensure_ascii=False)
    return text if len(text) <= most else text[:most] + "\n…"


def tensors(found: Any) -> str:
    """Named tensors, a line each: ``mean_radius  [17.99]``. Those not kept for their length show their shape."""
    lines = []
    for tensor in found if isinstance(found, list) else ():
        kept = (
            json.dumps(tensor["data"], ensure_ascii=False)
            if "data" in tensor
            else f"not kept, shape {tensor.get('shape')}"
        )
        lines.append(
            f"{tensor.get('name') or 'input'}  {kept if len(kept) <= _LONGEST else kept[:_LONGEST] + ' …'}"
        )
    return "\n".join(lines)


_NUMERIC = frozenset({"FLOAT", "DOUBLE", "DECIMAL"}) | {
    sign + name for sign in ("", "U") for name in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
}


def is_numeric_type(name: str) -> bool:
    """Is a SQL type one whose values are compared as figures, and so stand to the right?"""
    return name.upper().partition("(")[0] in _NUMERIC
