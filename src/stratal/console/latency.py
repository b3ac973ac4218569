"""How quick a revision's answers were of late, drawn on the server: the points of an SVG, one per slice of time."""

from collections.abc import Sequence
from dataclasses import dataclass

from stratal.console.native import Json
from stratal.console.shown import number

WIDTH, HEIGHT = 640, 132
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 10, 24
_SPAN_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Dot:
    """A slice that had requests: where half of its answers lie, and what it says when pointed at."""

    x: float
    y: float
    look: str
    """``done``, or ``failed`` when any got no answer."""
    title: str


@dataclass(frozen=True, slots=True)
class Picture:
    """`half` and `slow` are SVG paths (p50 and p95); `ticks` pairs of a height and its milliseconds."""

    half: str
    slow: str
    dots: Sequence[Dot]
    ticks: Sequence[tuple[float, str]]
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    bottom: int = HEIGHT - _BOTTOM
    width: int = WIDTH
    height: int = HEIGHT


def drawn(recent: Json, now: float) -> Picture | None:
    """The last five minutes up to `now` (epoch seconds); None when nothing was answered in them."""
    step = int(recent.get("slice_seconds") or 10)
    slices = [s for s in recent.get("slices") or () if s["p50_ms"] is not None and s["p95_ms"] is not None]
    slices = [s for s in slices if now - _SPAN_SECONDS - step <= s["at"] <= now + step]
    if not slices:
        return None
    top = float(max(s["p95_ms"] for s in slices)) * 1.1 or 1.0

    def across(slice_: Json) -> float:
        share = 1 - (now - float(slice_["at"]) - step / 2) / _SPAN_SECONDS
        return round(_LEFT + (WIDTH - _RIGHT - _LEFT) * min(max(share, 0.0), 1.0), 1)

    def up(ms: float) -> float:
        return round(HEIGHT - _BOTTOM - (HEIGHT - _BOTTOM - _TOP) * ms / top, 1)

    def path(which: str) -> str:
        """Joined where slices follow one another; a gap is a gap."""
        steps, before = [], None
        for one in slices:
            joined = before is not None and one["at"] - before <= step
            steps.append(f"{'L' if joined else 'M'}{across(one)} {up(one[which])}")
            before = one["at"]
        return " ".join(steps)

    dots = [
        Dot(across(s), up(s["p50_ms"]), "failed" if s["failed"] else "done", _title(s, step)) for s in slices
    ]
    ticks = [(up(ms), f"{ms:.3g}") for ms in (0.0, top / 2, top)]
    return Picture(path("p50_ms"), path("p95_ms"), dots, ticks)


def _title(slice_: Json, step: int) -> str:
    failed = f", {slice_['failed']} failed" if slice_["failed"] else ""
    return (
        f"{number(slice_['answered'])} answered{failed} in {step} s: half within {number(slice_['p50_ms'])} ms, "
        f"95 % within {number(slice_['p95_ms'])} ms"
    )
