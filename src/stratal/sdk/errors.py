"""What the platform refused, as the client tells it."""


class ApiError(Exception):
    """What the platform said went wrong: `status` (HTTP; 0 when it was not reached), `code`, message and hint."""

    def __init__(self, status: int, code: str, message: str, hint: str = "", request_id: str = "") -> None:
        super().__init__(f"{message} {hint}".strip())
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.request_id = request_id
