"""What a running server writes of itself, and what is checked before one is started. Light to import."""

import json
import os
from contextlib import suppress
from pathlib import Path

from stratal.app.settings import Home, Settings
from stratal.kernel.errors import Invalid


def check_binding(settings: Settings) -> None:
    """Refuse to be reachable from other machines without TLS, unless that was said to be wanted. Raises `Invalid`."""
    if settings.tls_certificate or settings.insecure or is_loopback(settings.host):
        return
    raise Invalid(
        f"Refusing to listen on {settings.host} without TLS: keys and data would cross the network in the clear.",
        hint="Give --tls-cert and --tls-key, or say --insecure when something in front of Stratal does TLS.",
        reason="insecure_binding",
    )


def is_loopback(host: str) -> bool:
    """True for addresses only this machine can reach."""
    return host in {"localhost", "::1"} or host.startswith("127.")


def read_record(home: Home) -> dict[str, str | int] | None:
    """What the running (or killed) server wrote of itself; None when there is nothing readable."""
    try:
        record = json.loads(home.server_record.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return record if isinstance(record, dict) else None


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    scratch = path.with_name(path.name + ".new")
    with suppress(FileNotFoundError):
        scratch.unlink()
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
