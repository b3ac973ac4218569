"""What a workload sees: the system read-only, its own folders, nothing of other people's.

Builds the bubblewrap command (https://github.com/containers/bubblewrap) and the plan that `entry`
carries out inside. Nothing of the machine is visible unless it is named here or in the specification:
no home folders, no other job's files, no /run, no /var, and of /etc only what programs cannot do without.
Standard library only.
"""

from __future__ import annotations

import glob
import os

from stratal.engines.local import landlock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

HOME = "/home/workload"
"""Where the private home lies inside the sandbox."""
HERE = os.path.dirname(os.path.abspath(__file__))
_INSIDE = "/run/stratal"

_SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/sys/devices/system",
)
_ETC = (
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ld.so.preload",
    "ssl/certs", "ssl/cert.pem", "ssl/openssl.cnf", "ca-certificates", "ca-certificates.conf",
    "pki/tls/certs", "pki/tls/cert.pem", "pki/tls/openssl.cnf", "pki/ca-trust/extracted", "crypto-policies",
    "localtime", "timezone", "alternatives", "mime.types", "protocols", "services", "host.conf", "gai.conf",
    "locale.alias", "locale.conf", "fonts", "os-release", "debian_version", "redhat-release", "OpenCL",
)  # fmt: skip


def program(name: str) -> list[str]:
    """The arguments behind an interpreter that run one of this folder's programs."""
    return ["-I", "-S", "-E", os.path.join(HERE, "boot.py"), name]


# -- where Pythons live ----------------------------------------------------------------------------


def installation(interpreter: str) -> list[str]:
    """The folders and files, outside of its environment, that the Python `interpreter` needs to start.

    Follows links one by one and a virtual environment's ``pyvenv.cfg`` to the installation behind it:
    each name on the way must exist inside the sandbox too.
    """
    found: list[str] = []
    todo = [os.path.abspath(interpreter)]
    seen: set[str] = set()
    while todo:
        path = todo.pop()
        if path in seen or len(seen) > 32:
            continue
        seen.add(path)
        folder = os.path.dirname(path)
        prefix = os.path.dirname(folder)
        found += _needed_of(prefix, path)
        home = _venv_home(prefix)
        if home:
            todo.append(os.path.join(home, os.path.basename(path)))
        if os.path.islink(path):
            todo.append(os.path.normpath(os.path.join(folder, os.readlink(path))))
        real = os.path.join(os.path.realpath(folder), os.path.basename(path))
        todo.append(real)
    return list(dict.fromkeys(found))


def _needed_of(prefix: str, interpreter: str) -> list[str]:
    libraries = glob.glob(f"{prefix}/lib/python3.*/os.py")
    if not libraries or prefix in ("/", "/usr"):
        return []
    person = os.path.realpath(os.path.expanduser("~"))
    if (person + "/").startswith(os.path.realpath(prefix).rstrip("/") + "/"):
        # Python was installed right into somebody's home: its library, and nothing else of that home.
        return [os.path.dirname(path) for path in libraries] + [interpreter]
    return [prefix]


def _venv_home(prefix: str) -> str | None:
    try:
        with open(os.path.join(prefix, "pyvenv.cfg"), encoding="utf-8") as file:
            for line in file:
                key, _, value = line.partition("=")
                if key.strip() == "home":
                    return value.strip()
    except (OSError, ValueError):
        pass
    return None


# -- bubblewrap ------------------------------------------------------------------------------------


def pythons(spec: dict[str, Any]) -> list[str]:
    """What the interpreters of this workload need: that of `entry`, and of its own program if it is one."""
    found = installation(_entry_python(spec))
    program_path = spec["argv"][0]
    if "/" in program_path:
        found += installation(os.path.join(spec["cwd"], program_path))
    return list(dict.fromkeys(found))


def _entry_python(spec: dict[str, Any]) -> str:
    given: str | None = spec["python"]
    return given or os.path.realpath(spec["engine"]["python"])


def command(spec: dict[str, Any], private: str) -> list[str]:
    """The bubblewrap command for `spec`; `private` is the attempt's folder with ``tmp``, ``home`` and ``etc``."""
    first_step = [_entry_python(spec), "-I", "-S", "-E", f"{_INSIDE}/stratal/engines/local/boot.py", "entry"]
    return [*_box(spec, private, "--die-with-parent"), *first_step]


def holder(spec: dict[str, Any], private: str) -> list[str]:
    """The same box around nothing but a shell that says when it is there and holds it until let go."""
    return [*_box(spec, private, "--die-with-parent"), "/bin/sh", "-c", "echo >&3; read held <&3"]


# As the first process of its namespace a shell takes orphans in and stays for as long as boxes exist below.
_WARDEN = '"$@" & exec 3<&-; wait $!; while set -- /proc/[0-9]*; [ $# -gt 1 ]; do sleep 1; done'


def nest(spec: dict[str, Any], private: str, env: dict[str, str]) -> list[str]:
    """The box of a zygote and of what it forks: it outlives zygote and keeper for as long as it is used."""
    argv = _box(spec, private, "--as-pid-1")
    variables = [word for name, value in env.items() for word in ("--setenv", name, value)]
    inner = ["/bin/sh", "-c", _WARDEN, "warden", *zygote(spec["python"], _INSIDE)]
    return [*argv[:-1], *variables, "--", *inner]


def zygote(python: str, source: str = os.path.normpath(f"{HERE}/../../..")) -> list[str]:
    """The command of a zygote; the room at its end is for the names of what it forks."""
    return [python, f"{source}/stratal/engines/local/boot.py", "zygote", " " * 400]


def standing(spec: dict[str, Any]) -> dict[str, Any]:
    """What a box like this workload's can be built of before it is known: nothing that is the workload's own.

    Two of equal `standing` get the same box but for the folders that are theirs (`own_folders`).
    """
    url = spec["env"].get("STRATAL_URL", "")
    kept = {name: spec[name] for name in ("python", "memory_bytes", "network", "isolate", "engine")}
    lacks = {"argv": [spec["python"]], "env": {"STRATAL_URL": url}, "cwd": "", "read_write": []}
    return {**kept, **lacks, "read_only": sorted(spec["read_only"])}


def places(standing: dict[str, Any]) -> frozenset[str]:
    """Where something is mounted in a box of `standing`."""
    return frozenset(_mounts(standing, "", closed=True))


def own_folders(spec: dict[str, Any]) -> list[str]:
    """The folders that a box of `standing` lacks still, in the order of mounting."""
    return sorted({*spec["read_write"], spec["cwd"]}, key=_depth)


def hides(spec: dict[str, Any], there: Iterable[str]) -> bool:
    """True where mounting `own_folders` last would hide what is mounted at these places already."""
    own = [folder.rstrip("/") + "/" for folder in own_folders(spec)]
    return any((place + "/").startswith(folder) for folder in own for place in there)


def _box(spec: dict[str, Any], private: str, lifetime: str) -> list[str]:
    """The bubblewrap command up to the program inside."""
    engine = spec["engine"]
    flavour = engine["bubblewrap"]
    closed = spec["network"] == "platform" and flavour["network"]
    argv = [flavour["path"], *namespaces(flavour["users"], closed), lifetime, "--hostname", "stratal"]
    mounts = _mounts(spec, private, closed=closed)
    argv += [
        word for path in sorted(mounts, key=_depth) for word in mounts[path]
    ]  # a folder before what lies in it
    argv += ["--proc", "/proc", "--dev", "/dev"]
    for device in spec.get("devices", ()):  # of the GPUs that it was given, and no others
        argv += ["--dev-bind", device, device]
    argv += ["--perms", "1777"]
    if spec["memory_bytes"]:  # what lies in shared memory is memory too
        argv += ["--size", str(spec["memory_bytes"])]
    return [*argv, "--tmpfs", "/dev/shm", "--remount-ro", "/", "--chdir", "/", "--"]


def namespaces(users: bool, closed: bool) -> list[str]:
    """The flags that unshare, also for trying out whether this machine allows it."""
    flags = ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    flags += ["--unshare-user"] if users else []
    flags += ["--unshare-net"] if closed else []
    return [*flags, "--new-session", "--cap-drop", "ALL"]


def _mounts(spec: dict[str, Any], private: str, *, closed: bool) -> dict[str, list[str]]:
    mounts: dict[str, list[str]] = {}  # by destination, so that the specification has the last word
    for path in _SYSTEM:
        if os.path.islink(path):
            mounts[path] = ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            mounts[path] = ["--ro-bind", path, path]
    for name in _ETC:
        path = f"/etc/{name}"
        if os.path.exists(path):
            mounts[path] = ["--ro-bind", path, path]
    for name in ("passwd", "group", "hosts", "nsswitch.conf"):
        mounts[f"/etc/{name}"] = ["--ro-bind", f"{private}/etc/{name}", f"/etc/{name}"]
    if not closed and os.path.exists("/etc/resolv.conf"):
        mounts["/etc/resolv.conf"] = ["--ro-bind", os.path.realpath("/etc/resolv.conf"), "/etc/resolv.conf"]
    for path in pythons(spec):
        mounts[path] = ["--ro-bind", path, path]
    for path in spec["engine"]["hidden"]:
        if any(path.startswith(seen + "/") for seen in mounts):
            mounts[path] = ["--tmpfs", path]
    mounts["/tmp"] = ["--bind", f"{private}/tmp", "/tmp"]  # on disk: memory is counted
    mounts["/var/tmp"] = ["--bind", f"{private}/tmp", "/var/tmp"]
    mounts[HOME] = ["--bind", f"{private}/home", HOME]
    mounts[f"{_INSIDE}/stratal/engines/local"] = ["--ro-bind", HERE, f"{_INSIDE}/stratal/engines/local"]
    for path in spec["read_only"]:
        mounts[path] = ["--ro-bind", path, path]
    for path in (*spec["read_write"], spec["cwd"]):
        if path:
            mounts[path] = ["--bind", path, path]
    return mounts


def _depth(path: str) -> int:
    return path.rstrip("/").count("/")


def write_private(spec: dict[str, Any], private: str) -> None:
    """Make the attempt's private folders, and the few files of /etc that must not be the machine's own."""
    for name in ("tmp", "home", "etc"):
        os.makedirs(f"{private}/{name}", mode=0o700, exist_ok=True)
    os.chmod(f"{private}/tmp", 0o1777)  # noqa: S103  # as every /tmp; the folder above lets nobody else in
    me, group = os.getuid(), os.getgid()
    people = {
        0: f"root:x:0:0:root:{HOME if me == 0 else '/'}:/bin/sh",
        65534: "nobody:x:65534:65534::/:/bin/false",
    }
    people.setdefault(me, f"workload:x:{me}:{group}:workload:{HOME}:/bin/sh")
    groups = {0: "root:x:0:", 65534: "nogroup:x:65534:"}
    groups.setdefault(group, f"workload:x:{group}:")
    host = url_address(spec["env"].get("STRATAL_URL", ""))[0]
    names = "localhost stratal" + (f" {host}" if host and not host.replace(".", "").isdigit() else "")
    contents = {
        "passwd": people.values(),
        "group": groups.values(),
        "hosts": [f"127.0.0.1 {names}", "::1 localhost"],
        "nsswitch.conf": ["passwd: files", "group: files", "hosts: files dns"],
    }
    for name, lines in contents.items():
        with open(f"{private}/etc/{name}", "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write("\n".join(lines) + "\n")


def url_address(url: str) -> tuple[str, int]:
    """Host and port of an http(s) URL; ("", 0) when it is none. urllib would cost 10 ms."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("http", "https"):
        return "", 0
    host, colon, port = rest.split("/", 1)[0].rpartition("@")[2].partition(":")
    if not colon:
        port = "443" if scheme == "https" else "80"
    return (host, int(port)) if port.isdigit() and 0 < int(port) < 65536 else ("", 0)


# -- the plan for entry ----------------------------------------------------------------------------


def plan(spec: dict[str, Any], private: str, *, boxed: bool) -> list[Sequence[str]]:
    """What `entry` is told: argv, environment, (cwd, address to listen on, fence), readable, writable."""
    environment = dict(spec["env"])
    engine = spec["engine"]
    listen, fence = "", ""
    readable: Iterable[str] = ()
    writable: Iterable[str] = ()
    if spec["isolate"]:
        fence = "landlock" if engine["landlock"] else "privileges"
        environment["HOME"] = HOME if boxed else f"{private}/home"
        own = [spec["cwd"], *spec["read_write"]]
        if boxed:
            environment.pop("TMPDIR", None)
            readable = ["/"]
            writable = [*own, "/tmp", "/var/tmp", HOME, "/dev", "/proc"]
        else:
            if engine["landlock"] and any(path.startswith("/tmp/") for path in engine["hidden"]):
                environment["TMPDIR"] = f"{private}/tmp"  # /tmp itself is out of reach
            readable = [*spec["read_only"], *pythons(spec)]
            writable = [*own, f"{private}/tmp", f"{private}/home"]
            writable += landlock.everything_but(engine["hidden"]) if engine["landlock"] else []
    if boxed and spec["network"] == "platform" and engine["bubblewrap"]["network"]:
        port = url_address(environment.get("STRATAL_URL", ""))[1]
        listen = f"127.0.0.1:{port}" if port and engine["platform_socket"] else ""
    return [
        _argv(spec, boxed=boxed),
        [f"{key}={value}" for key, value in environment.items()],
        [spec["cwd"], listen, fence],
        list(readable),
        list(writable),
    ]


def _argv(spec: dict[str, Any], *, boxed: bool) -> list[str]:
    """The workload's program; for a gang the process that starts its members."""
    argv: list[str] = spec["argv"]
    gang = spec.get("gang")
    if not gang:
        return argv
    boot = f"{_INSIDE}/stratal/engines/local/boot.py" if boxed else os.path.join(HERE, "boot.py")
    return [_entry_python(spec), "-I", "-S", "-E", boot, "gang", *gang_words(spec), "--", *argv]


def gang_words(spec: dict[str, Any]) -> list[str]:
    """What the first process of a gang is told of it; empty where the workload is none."""
    gang = spec.get("gang")
    if not gang:
        return []
    told = [gang[name] for name in ("nodes", "procs_per_node", "restart", "most_restarts", "run_id")]
    return [str(word) for word in (*told, spec.get("grace_seconds", 10.0), *(gang.get("part") or ()))]
