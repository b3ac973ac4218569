"""Keeps Ray on one interface: builds what is preloaded into it, and looks whether it holds.

Ray listens on loopback alone when that is its node's address, and else on every address. So for another
one `bindguard.c` is compiled, once for each change of it, and preloaded. Nothing is believed: after a
start the sockets themselves are looked at (`open_to_all`).
"""

import contextlib
import hashlib
import ipaddress
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from stratal.engines.ray.settings import is_loopback
from stratal.kernel.errors import Invalid, Unavailable

_SOURCE = Path(__file__).with_name("bindguard.c")
_LISTENING = "0A"
_COMPILE_SECONDS = 60


def guard(folder: Path, interface: str, *, every_interface: bool) -> Path | None:
    """What to preload into Ray's processes, built below `folder`; None where Ray needs none.

    Raises `Invalid` for what is no address, `Unavailable` when it cannot be built here.
    """
    address = _address(interface)
    if every_interface or is_loopback(interface):
        return None
    if address.version != 4:
        raise Invalid(
            f"Ray can be kept on one IPv4 interface; {interface} is none.",
            hint="Give an IPv4 address, or allow every interface with --every-interface.",
        )
    source = _SOURCE.read_bytes()
    built = folder / f"bindguard-{hashlib.sha256(source).hexdigest()[:12]}.so"
    if not built.exists():
        _build(built)
    return built


def _address(interface: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        address = ipaddress.ip_address(interface)
    except ValueError:
        raise Invalid(f"{interface!r} is no IP address of an interface.", reason="bad_interface") from None
    if address.is_unspecified:
        raise Invalid(
            f"{interface} is every interface.",
            hint="Name one address of this machine; --every-interface says that all are meant.",
            reason="bad_interface",
        )
    return address


def _build(target: Path) -> None:
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    wanted = "Ray listens on every interface unless a guard is built, which needs a C compiler"
    hint = "Install gcc or clang, or allow every interface with --every-interface."
    if compiler is None:
        raise Unavailable(f"{wanted}; none is installed.", hint=hint, reason="not_confined")
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = target.with_suffix(f".{os.getpid()}")
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(part), str(_SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, timeout=_COMPILE_SECONDS, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-300:]
        raise Unavailable(f"{wanted}; {compiler} failed: {said}", hint=hint, reason="not_confined")
    part.replace(target)


def open_to_all(pids: Iterable[int]) -> list[str]:
    """``program:port`` of every TCP socket of these processes that listens on all addresses."""
    wild = _wildcards()
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            for entry in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    target = os.readlink(entry.path)
                    if target.startswith("socket:[") and target[8:-1] in wild:
                        found.append(f"{name}:{wild[target[8:-1]]}")
    return sorted(set(found))


def _wildcards() -> dict[str, int]:
    """Port by inode of the sockets that listen on 0.0.0.0 or ::."""
    found: dict[str, int] = {}
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                host, port = fields[1].split(":")
                if fields[3] == _LISTENING and not int(host, 16):
                    found[fields[9]] = int(port, 16)
    return found
