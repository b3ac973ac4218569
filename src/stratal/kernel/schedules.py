"""When a schedule is due: five fields of cron, in a time zone, over the days on which clocks are changed.

As Debian's cron has it (and cronsim, which does the work): a time of day that is left out when clocks are put
forward is met right after the gap, one that comes twice when they are put back is met once; schedules
that repeat within the hours go by real time.

Who runs something by a schedule and keeps the moment of its last look calls `due_between` at each look. Behind the last
look it runs the latest moment only; where the clock went back, the present becomes its last look; and each moment
that it ran for is a row that cannot be there twice, written with its effect in one transaction.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from stratal.kernel.errors import Invalid


def check_schedule(expression: str, zone: str) -> None:
    """Raise `Invalid` (``bad_schedule``, ``bad_timezone``) unless there is a time at which it is due."""
    next_due(expression, zone, 0)


def next_due(expression: str, zone: str, after: int) -> int:
    """The first moment later than `after` at which it is due. Both are epoch milliseconds. Raises `Invalid`."""
    return next(due_after(expression, zone, after))


def due_after(expression: str, zone: str, after: int) -> Iterator[int]:
    """The moments later than `after`, one by one, without end. Raises `Invalid`."""
    from cronsim import CronSim, CronSimError

    if len(expression) > 200 or len(expression.split()) != 5:
        raise _bad(expression, "it has not five fields")
    try:
        place = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise Invalid(
            f"There is no time zone {zone[:60]!r}.",
            hint="Name it as in Europe/Berlin, or UTC.",
            reason="bad_timezone",
        ) from error
    try:
        moments = CronSim(expression, datetime.fromtimestamp(after / 1000, UTC).astimezone(place))
        for moment in moments:
            due = int(moment.timestamp() * 1000)
            if due > after:  # of a time that comes twice, both could be the start
                yield due
        raise _bad(expression, "it is never due")
    except (CronSimError, OverflowError) as error:
        raise _bad(expression, str(error) or "a field is out of range") from error


def due_between(expression: str, zone: str, looked_at: int, now: int) -> int | None:
    """The latest moment in (`looked_at`, `now`]; None when there is none, or the clock went back. Raises `Invalid`.

    Found backwards from `now`, so a long sleep costs no more than a short one.
    """
    from cronsim import CronSim

    check_schedule(expression, zone)
    if now <= looked_at:
        return None
    place = ZoneInfo(zone)
    # Whole seconds, and before the one that is given: a second behind `now`, `now` itself is among them.
    start = datetime.fromtimestamp(now // 1000 + 1, UTC).astimezone(place)
    for moment in CronSim(expression, start, reverse=True):
        due = int(moment.timestamp() * 1000)
        if due <= now:
            return due if due > looked_at else None
    return None


def _bad(expression: str, why: str) -> Invalid:
    return Invalid(
        f"{expression[:200]!r} is no schedule: {why}.",
        hint="Say minute, hour, day of month, month and day of week: '0 3 * * *' is 03:00 every day.",
        reason="bad_schedule",
    )
