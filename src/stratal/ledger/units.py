"""What is metered, in which whole units, and what it costs, exactly. Pure.

Quantities and money are integers: microseconds, kibibyte- and mebibyte-seconds, bytes, and billionths of the
currency.
Integers add up to the same sum in whatever order, so the ledger's rows and any report of them agree to
the last digit. The one rounding is where a row's quantity meets its price.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from stratal.kernel.errors import Invalid

NANO = 10**9
_MICRO = 10**6
_HOUR = 3600
_KIB_OF_GIB = 2**20
_MIB_OF_GIB = 2**10
MOST_MONEY = 10**6 * NANO
"""The largest price or budget that can be said; sums of what is spent may be far larger."""

_AMOUNT = re.compile(r"[0-9]{1,7}(?:\.[0-9]{1,9})?\Z")
_GPU_TYPE = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,38}[a-z0-9])?\Z")


@dataclass(frozen=True, slots=True)
class Resource:
    """Something metered. `price` names its line in the price table, which is for so many (`per`) of its units."""

    price: str
    per: int
    shown: str
    """What JSON calls its quantity."""
    scale: int
    """Units in one of what is shown: microseconds are shown as seconds."""


RESOURCES: Mapping[str, Resource] = {
    "cpu": Resource("cpu_hour", _HOUR * _MICRO, "cpu_seconds", _MICRO),
    "gpu": Resource("gpu_hour", _HOUR * _MICRO, "gpu_seconds", _MICRO),
    "memory": Resource("memory_gib_hour", _HOUR * _KIB_OF_GIB, "memory_kib_seconds", 1),
    "wall": Resource("wall_hour", _HOUR * _MICRO, "wall_seconds", _MICRO),
    "stored": Resource("storage_gib_month", 730 * _HOUR * _MIB_OF_GIB, "stored_mib_seconds", 1),
    "received": Resource("transfer_in_gib", 2**30, "bytes_received", 1),
    "sent": Resource("transfer_out_gib", 2**30, "bytes_sent", 1),
}
"""By the word that rows carry; GPUs of a known type are ``gpu:<type>``."""

PRICES: Mapping[str, str] = {
    "cpu_hour": "An hour of one processor at work",
    "gpu_hour": "An hour of one GPU held, of a type that has no price of its own",
    "memory_gib_hour": "An hour of one GiB of memory in use",
    "wall_hour": "An hour of one attempt or replica being there at all",
    "storage_gib_month": "A month (730 hours) of one GiB stored",
    "transfer_in_gib": "One GiB sent to the platform",
    "transfer_out_gib": "One GiB fetched from the platform",
}
"""What can be priced. ``gpu_hour:<type>`` prices one type of GPU."""


def resource_of(name: str) -> Resource:
    """The resource that a row's word stands for. Raises `KeyError`."""
    return RESOURCES[name.partition(":")[0]]


def price_names(resource: str) -> tuple[str, ...]:
    """The lines of the price table that hold for a resource: the first that has a price counts."""
    kind, _, type_ = resource.partition(":")
    general = RESOURCES[kind].price
    return (f"{general}:{type_}", general) if type_ else (general,)


def check_price_name(name: str) -> str:
    """Return `name` when something can be priced under it. Raises `Invalid`."""
    kind, colon, type_ = name.partition(":")
    if kind in PRICES and (not colon or (kind == "gpu_hour" and _GPU_TYPE.match(type_))):
        return name
    raise Invalid(
        f"{name[:60]!r} is nothing that has a price.",
        hint=f"There are: {', '.join(PRICES)}, and gpu_hour:TYPE for one type of GPU.",
        reason="bad_price",
    )


def cost_of(resource: str, quantity: int, nano: int) -> int:
    """What `quantity` of a resource costs, in billionths, at `nano` for each unit that is priced; halves round up."""
    per = resource_of(resource).per
    return (2 * quantity * nano + per) // (2 * per)


def money(text: str, what: str) -> int:
    """Billionths in a decimal like ``5.00``. Raises `Invalid`: signs, exponents, too many digits, too much."""
    try:
        if not _AMOUNT.match(text):
            raise InvalidOperation
        nano = int(Decimal(text).scaleb(9))
    except InvalidOperation:
        nano = -1
    if not 0 <= nano <= MOST_MONEY:
        raise Invalid(
            f"{text[:40]!r} is no {what}.",
            hint="Write a decimal from 0 to 1000000 with at most nine places, like 5.00 or 0.0375.",
            reason="bad_amount",
        )
    return nano


def shown(nano: int) -> str:
    """The exact decimal of so many billionths, with at least two places: ``5.00``, ``0.000044``."""
    sign, nano = ("-", -nano) if nano < 0 else ("", nano)
    places = f"{nano % NANO:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}{nano // NANO}.{places}"


def share(quantity: int, part: int, whole: int) -> int:
    """How much of `quantity` falls to the first `part` of `whole`: whole numbers whose differences add up."""
    return quantity if whole <= 0 else quantity * part // whole
