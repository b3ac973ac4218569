"""What can go wrong, as meaning. Every door owns one table from these to its protocol's dialect.

StratalError
├─ Invalid              the request is malformed or its values make no sense
├─ Unauthenticated      nobody, or a credential that is wrong, expired or revoked
├─ Denied               somebody, who may not do this
├─ NotFound             no such thing, or one that the caller may not know of
├─ Conflict             exists already, not empty, or changed in between
├─ PreconditionFailed   the condition sent along does not hold
├─ RangeInvalid         the requested byte range lies outside the object
├─ TooLarge             over a limit on size
├─ OverBudget           the project's budget or quota is used up
├─ Busy                 too much at once: shed, try again
├─ Unavailable          something needed is not there right now: try again
├─ Unsupported          the protocol has it, this system does not
└─ Internal             a defect of ours
"""

from typing import ClassVar


class StratalError(Exception):
    """The root. `message` says what happened and to what; `hint` what to do next; `details` is for programs."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, hint: str = "", reason: str = "", **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.reason = reason or self.code
        """A stable word finer than the class, e.g. ``no_such_bucket``: doors map it to their own codes."""
        self.details = details

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class Invalid(StratalError):
    code, status = "invalid", 400


class Unauthenticated(StratalError):
    code, status = "unauthenticated", 401


class Denied(StratalError):
    code, status = "denied", 403


class NotFound(StratalError):
    code, status = "not_found", 404


class Conflict(StratalError):
    code, status = "conflict", 409


class PreconditionFailed(StratalError):
    code, status = "precondition_failed", 412


class RangeInvalid(StratalError):
    code, status = "range_invalid", 416


class TooLarge(StratalError):
    code, status = "too_large", 413


class OverBudget(StratalError):
    code, status = "over_budget", 429


class Busy(StratalError):
    code, status = "busy", 429


class Unavailable(StratalError):
    code, status = "unavailable", 503


class Unsupported(StratalError):
    code, status = "unsupported", 501


class Internal(StratalError):
    code, status = "internal", 500
