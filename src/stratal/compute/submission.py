"""What may be asked of a job: every value checked before anything is recorded. Pure."""

import math
import posixpath
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from stratal.compute.engine import Capacity
from stratal.compute.model import DEFAULT_GRACE_SECONDS, JobSpec
from stratal.compute.requirements import canonical
from stratal.kernel.errors import Invalid, TooLarge
from stratal.kernel.names import check_name

MAX_WORDS_BYTES = 128 * 1024
MAX_WORDS = 1000
MAX_DIFF_BYTES = 1024 * 1024
MAX_UNTRACKED = 1000
LEAST_MEMORY = 16 * 1024 * 1024
MOST_SECONDS = 366 * 86400.0
MOST_PRIORITY = 1000
MOST_RETRIES = 100
MOST_GRACE = 3600.0
MOST_MEMBERS = 1000
MOST_PROCESSES = 256
MOST_AFTER = 1000
DEFAULT_CPUS = 1.0
DEFAULT_MEMORY = 4 * 1024**3

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def complete(spec: JobSpec, capacity: Capacity) -> JobSpec:
    """`spec` with every default filled in.

    The default is 1 processor (for each process of a gang's node) and 4 GiB, or half of the machine's
    memory where that is less; a gang's nodes share what there is.
    Raises `Invalid`: a value that makes no sense, or more than the machine has; `TooLarge`: too long.
    """
    _check_argv(spec.argv)
    check_env(spec.env)
    _check_source(spec)
    if spec.timeout_seconds is not None and not 0 < spec.timeout_seconds <= MOST_SECONDS:
        raise Invalid("A time limit is more than 0 seconds and at most a year.", reason="bad_timeout")
    _check_manners(spec)
    nodes, procs = _shape_of(spec)
    size = nodes or 1
    cpus = spec.cpus if spec.cpus is not None else min(DEFAULT_CPUS * (procs or 1), capacity.cpus / size)
    memory = spec.memory_bytes
    if memory is None:
        memory = min(DEFAULT_MEMORY, capacity.memory_bytes // 2 // size)
    _check_fits(cpus, memory, size, capacity)
    _check_gpus(spec, size, capacity)
    return replace(
        spec,
        name=_name_of(spec.argv) if spec.name is None else check_name("job", spec.name),
        cpus=cpus,
        memory_bytes=memory,
        nodes=nodes,
        procs_per_node=procs,
        network=spec.network or "platform",
        grace_seconds=DEFAULT_GRACE_SECONDS if spec.grace_seconds is None else spec.grace_seconds,
        requirements=canonical(spec.requirements),
        cwd=cwd_of(spec.cwd),
    )


def _check_argv(argv: Sequence[str]) -> None:
    if not argv or not argv[0]:
        raise Invalid(
            "A job needs a command.", hint="For example: stratal run -- python train.py", reason="no_command"
        )
    if len(argv) > MAX_WORDS:
        raise TooLarge(f"A job's command may have {MAX_WORDS} words.")
    if sum(len(_encoded(word, "command")) for word in argv) > MAX_WORDS_BYTES:
        raise TooLarge(
            f"A job's command may have {MAX_WORDS_BYTES // 1024} KiB.", hint="Put long input into a file."
        )


def check_env(env: Mapping[str, str]) -> None:
    """Raise `Invalid` or `TooLarge` for variables that no process can be given."""
    if len(env) > MAX_WORDS:
        raise TooLarge(f"A job may be given {MAX_WORDS} variables.")
    for name in env:
        if not _VARIABLE.match(name):
            raise Invalid(
                f"{name[:60]!r} cannot name a variable.",
                hint="Use letters, digits and '_', not beginning with a digit.",
                reason="bad_variable",
            )
    if (
        sum(len(name) + len(_encoded(value, f"variable {name[:60]}")) for name, value in env.items())
        > MAX_WORDS_BYTES
    ):
        raise TooLarge(
            f"A job's variables may have {MAX_WORDS_BYTES // 1024} KiB.", hint="Put long values into a file."
        )


def _encoded(word: str, what: str) -> bytes:
    if "\0" in word:
        raise Invalid(f"The job's {what} holds a NUL character.", reason="nul")
    try:
        return word.encode()
    except UnicodeEncodeError as error:
        raise Invalid(f"The job's {what} is not text in UTF-8.", reason="not_utf8") from error


def _check_manners(spec: JobSpec) -> None:
    if abs(spec.priority) > MOST_PRIORITY:
        raise Invalid(
            f"A priority lies between -{MOST_PRIORITY} and {MOST_PRIORITY}.",
            hint="Each point moves a job ahead by ten minutes of waiting.",
            reason="bad_priority",
        )
    if not 0 <= spec.retries <= MOST_RETRIES:
        raise Invalid(f"A job may be tried again 0 to {MOST_RETRIES} times.", reason="bad_retries")
    if spec.grace_seconds is not None and not 0 <= spec.grace_seconds <= MOST_GRACE:
        raise Invalid("A grace is 0 seconds to an hour.", reason="bad_grace")
    if len(spec.after) > MOST_AFTER:
        raise TooLarge(f"A job may come after {MOST_AFTER} others.", hint="Name their array instead.")
    if spec.parallel is not None and (spec.array is None or spec.parallel < 1):
        raise Invalid("Only an array's members can be limited, to 1 or more at once.", reason="bad_array")


def array_indices(text: str) -> list[int]:
    """The indices that ``10`` (0 to 9), ``2-5`` or ``1,4,7-9`` mean, ascending. Raises `Invalid`."""
    found: set[int] = set()
    parts = text.replace(" ", "").split(",") if len(text) <= 10_000 else [""]
    for part in parts:
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part, re.ASCII)
        if match is None:
            raise Invalid(
                f"{text[:60]!r} does not say an array's members.",
                hint="Say how many (10: 0 to 9), a range (5-9), or a list (1,4,7-9).",
                reason="bad_array",
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if len(parts) == 1 and match[2] is None:
            first, last = 0, first - 1
        if last < first:
            raise Invalid(f"The array {text[:60]!r} has no members.", reason="bad_array")
        if last - first >= MOST_MEMBERS:
            raise TooLarge(f"An array may have {MOST_MEMBERS} members.")
        found.update(range(first, last + 1))
    if len(found) > MOST_MEMBERS:
        raise TooLarge(f"An array may have {MOST_MEMBERS} members.")
    return sorted(found)


def after_of(words: Sequence[str]) -> tuple[list[int], list[int]]:
    """The jobs (``12``) and the arrays (``a3``) that `words` name. Raises `Invalid`."""
    jobs: list[int] = []
    arrays: list[int] = []
    for word in words:
        match = re.fullmatch(r"(a?)(\d{1,15})", word, re.ASCII)
        if match is None:
            raise Invalid(
                f"{word[:60]!r} names no job.",
                hint="A job is named by its number (12), an array by its own (a3).",
                reason="bad_after",
            )
        (arrays if match[1] else jobs).append(int(match[2]))
    return list(dict.fromkeys(jobs)), list(dict.fromkeys(arrays))


def _check_source(spec: JobSpec) -> None:
    source = spec.source
    if source.kind not in {"git", "folder", "none"}:
        raise Invalid("The source's kind is git, folder or none.", reason="bad_source")
    if len(source.diff) > MAX_DIFF_BYTES:
        raise TooLarge(f"The diff may have {MAX_DIFF_BYTES // 1024} KiB: cut it and say so.")
    if len(source.untracked) > MAX_UNTRACKED or len(source.submodules) > MAX_UNTRACKED:
        raise TooLarge(f"At most {MAX_UNTRACKED} untracked files or submodules are listed.")
    words = [source.commit, source.branch, source.remote, *source.untracked, *source.submodules]
    words += source.submodules.values()
    for word in words:
        if word is not None and len(_encoded(word, "source")) > 4096:
            raise TooLarge("A word about the job's source is longer than 4096 bytes.")
    if source.remote and re.search(r"://[^/\s@]*:[^/\s@]*@", source.remote):
        raise Invalid("The address of the repository carries a password.", reason="bad_source")


def _shape_of(spec: JobSpec) -> tuple[int | None, int | None]:
    """Nodes and processes of each; None and None for a job that is no gang."""
    if spec.nodes is None and spec.procs_per_node is None:
        return None, None
    nodes, procs = spec.nodes or 1, spec.procs_per_node or 1
    if spec.nodes == 0 or spec.procs_per_node == 0 or not 0 < nodes * procs <= MOST_PROCESSES or nodes < 0:
        raise Invalid(
            f"A gang has 1 to {MOST_PROCESSES} processes, nodes times processes of each.", reason="bad_gang"
        )
    return nodes, procs


def _check_fits(cpus: float, memory: int, size: int, capacity: Capacity) -> None:
    if not math.isfinite(cpus) or cpus < 0.01:
        raise Invalid("A job needs at least 0.01 processors.", reason="bad_cpus")
    if memory < LEAST_MEMORY:
        raise Invalid(
            "A job needs at least 16 MiB of memory.",
            hint="Give a unit, e.g. --memory 2GiB.",
            reason="bad_memory",
        )
    if cpus * size > capacity.cpus + 1e-9 or memory * size > capacity.memory_bytes:
        each = f" for each of its {size} nodes" if size > 1 else ""
        most = f"--cpus {capacity.cpus / size:g} --memory {capacity.memory_bytes // 2**20 // size}MiB"
        raise Invalid(
            f"This job could never run here: it asks for {cpus:g} processors and {_gib(memory)}{each}, "
            f"and there are {capacity.cpus:g} and {_gib(capacity.memory_bytes)} in all.",
            hint=f"What fits: {most} or less.",
            reason="never_fits",
        )


def _check_gpus(spec: JobSpec, size: int, capacity: Capacity) -> None:
    if spec.gpu_type is not None and not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", spec.gpu_type):
        raise Invalid(f"{spec.gpu_type[:60]!r} is no type of GPU like h100.", reason="bad_gpus")
    if spec.gpus < 0 or (spec.gpu_type is not None and not spec.gpus):
        raise Invalid("A job asks for 1 GPU or more, or for none.", reason="bad_gpus")
    if not spec.gpus:
        return
    counts = Counter(gpu.type for gpu in capacity.gpus)
    most = counts[spec.gpu_type] if spec.gpu_type else max(counts.values(), default=0)
    wanted = spec.gpus * size
    if wanted > most:
        there = ", ".join(f"{count} {name}" for name, count in counts.items()) or "no GPU"
        because = f" ({capacity.why_no_gpus})" if not counts and capacity.why_no_gpus else ""
        asked = f"{wanted} GPU{'s' * (wanted > 1)}" + (f" of type {spec.gpu_type}" if spec.gpu_type else "")
        raise Invalid(
            f"This job could never run here: it asks for {asked}, and there is {there}{because}.",
            hint="See what there is with: stratal gpus. A job's GPUs are all of one type.",
            reason="never_fits",
        )


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB of memory"


def cwd_of(cwd: str) -> str:
    """The working directory inside the snapshot, normalised. Raises `Invalid` when it would leave it."""
    if not cwd:
        return ""
    _encoded(cwd, "working directory")
    plain = posixpath.normpath(cwd)
    if (
        len(cwd) > 1024
        or "\n" in cwd
        or plain.startswith(("/", "../"))
        or plain == ".."
        or cwd.startswith("/")
    ):
        raise Invalid("The working directory lies outside of the job's code.", reason="bad_cwd")
    return "" if plain == "." else plain


def _name_of(argv: Sequence[str]) -> str:
    """A name for people from the command: the script's, the module's, else the program's."""
    words = list(argv)
    chosen = posixpath.basename(words[0])
    if re.fullmatch(r"python[\d.]*", chosen):
        for index, word in enumerate(words[1:], 1):
            if word == "-m" and index + 1 < len(words):
                chosen = words[index + 1]
            elif word.startswith("-"):
                if word == "-c":
                    break
                continue
            else:
                chosen = posixpath.basename(word)
            break
    clean = re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9._-]+", "-", chosen))[:60].strip("._-")
    return clean or "job"
