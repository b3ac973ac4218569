"""The first process of a gang's box: starts every member or none, and ends all when one fails.

A gang is ``nodes × procs_per_node`` processes that find one another through torchrun's variables
(https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables). On one machine all of them share one
box: one network that has nothing but loopback and the platform, one /tmp, one set of limits. So they reach
each other, on any port, and nobody else does; and no port can be taken by somebody else's gang.

Members write into files of their own, given as descriptors; what they write is copied from there, line by
line and with the rank before it, to this process's own output. The exit code is that of the first
member that failed, 0 when none did. Standard library only.
"""

from __future__ import annotations

import _socket
import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

FIRST_LOG_FD = 10
"""The members' files are this descriptor and those behind it, in the order of their ranks."""
USUAL_PORT = 29500
_SHORTEST, _LONGEST = 0.02, 0.25
_BLOCK = 1 << 16


def main(arguments: Sequence[str]) -> None:
    """``gang <nodes> <procs> <restart> <most restarts> <run id> <grace seconds> [<part>] -- <program> …``

    ``part``, for the nodes of a gang that are on this machine, is ``<first node> <nodes in all> <address> <port>``.
    """
    split = arguments.index("--")
    sys.exit(gang_of(arguments[:split], list(arguments[split + 1 :])).run())


def gang_of(words: Sequence[str], argv: list[str] | None) -> Gang:
    """The gang that these words, those before the ``--``, tell of."""
    nodes, procs, restart, most, run_id, grace, *part = words
    first, of, address, port = part or ("0", nodes, "127.0.0.1", str(free_port()))
    shape = Shape(int(nodes), int(procs), restart, most, run_id, (address, port), int(first), int(of))
    return Gang(shape, argv, float(grace))


class Member(BaseException):
    """In a member that is to go on as it is, a fork with modules loaded, instead of becoming another program."""

    def __init__(self, variables: dict[str, str]) -> None:
        super().__init__()
        self.variables = variables


class Shape:
    """How many members there are here, and what each is told.

    `nodes` are on this machine, `of` in all, the first here is the gang's node `first`.
    """

    def __init__(
        self,
        nodes: int,
        procs: int,
        restart: str,
        most: str,
        run_id: str,
        master: tuple[str, str],
        first: int = 0,
        of: int | None = None,
    ) -> None:
        self.nodes, self.procs = nodes, procs
        self.here = nodes * procs
        self.first_rank = first * procs
        of = nodes if of is None else of
        self._same = {
            "MASTER_ADDR": master[0],
            "MASTER_PORT": master[1],
            "WORLD_SIZE": str(of * procs),
            "LOCAL_WORLD_SIZE": str(procs),
            "GROUP_WORLD_SIZE": str(of),
            "ROLE_WORLD_SIZE": str(of * procs),
            "ROLE_NAME": "default",
            "TORCHELASTIC_RESTART_COUNT": restart,
            "TORCHELASTIC_MAX_RESTARTS": most,
            "TORCHELASTIC_RUN_ID": run_id,
            "TORCHELASTIC_USE_AGENT_STORE": "False",
        }

    def variables(self, rank: int, gpus: str) -> dict[str, str]:
        """What the member `rank` is told; `gpus` are those of all nodes here, in their order."""
        node, local = divmod(rank, self.procs)
        every = [uuid for uuid in gpus.split(",") if uuid]
        each = len(every) // self.nodes
        here = node - self.first_rank // self.procs
        return {
            **self._same,
            "RANK": str(rank),
            "LOCAL_RANK": str(local),
            "GROUP_RANK": str(node),
            "NODE_RANK": str(node),
            "ROLE_RANK": str(rank),
            "CUDA_VISIBLE_DEVICES": ",".join(every[here * each : (here + 1) * each]),
        }


NAMES = frozenset(Shape(1, 1, "", "", "", ("", "")).variables(0, ""))
"""The variables that members are told."""


def free_port() -> int:
    """The usual one, always free in a network of our own; another where it is the machine's and taken."""
    for port in (USUAL_PORT, 0):
        probe = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        try:
            probe.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
        except OSError:
            continue
        finally:
            probe.close()
    return USUAL_PORT


class Gang:
    """Members become the program `argv`; where that is None, `run` raises `Member` in each of them."""

    def __init__(self, shape: Shape, argv: list[str] | None, grace: float) -> None:
        self.shape, self.argv, self.grace = shape, argv, grace
        self.ranks: dict[int, int] = {}
        self.copied = [0] * shape.here
        self.partial = [b""] * shape.here
        self.failed: tuple[int, int] | None = None
        self.kill_at: float | None = None
        self.asked = False

    def run(self) -> int:
        signals = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            self._start()
        except OSError as error:
            self._signal(signal.SIGKILL)
            self._say(f"the gang could not be started: {error.strerror}")
            return 126
        pause = _SHORTEST
        while self.ranks:
            told = signal.sigtimedwait(signals, pause)
            if told is not None and told.si_signo != signal.SIGCHLD:
                self.asked = True  # the members were told too, all at the same time
            self._reap()
            pause = _SHORTEST if self._copy() else min(pause * 1.5, _LONGEST)
            if self.kill_at is not None and time.monotonic() >= self.kill_at:
                self.kill_at = None
                self._signal(signal.SIGKILL)
        self._copy(last=True)
        if self.failed is None:
            return 0
        return self.failed[1]

    # -- members -------------------------------------------------------------------------------

    def _start(self) -> None:
        """Fork them all, and let them go on only when all are there. Raises `OSError`: then none went on."""
        gate, opener = os.pipe()
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        try:
            for member in range(self.shape.here):
                pid = os.fork()
                if pid == 0:
                    self._become(member, gpus, gate, opener)
                self.ranks[pid] = self.shape.first_rank + member
        except OSError:
            self._signal(signal.SIGKILL)  # before the gate opens
            os.close(gate)
            raise
        os.close(gate)
        os.write(opener, b"g" * self.shape.here)
        os.close(opener)

    def _become(self, member: int, gpus: str, gate: int, opener: int) -> None:
        """In the fork. Does not return, but raises `Member` where there is no program to become."""
        argv = self.argv
        try:
            os.close(opener)
            os.setpgid(0, 0)
            if os.read(gate, 1) != b"g":
                os._exit(125)
            log = FIRST_LOG_FD + member
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.closerange(3, FIRST_LOG_FD + self.shape.here)
            signal.pthread_sigmask(signal.SIG_SETMASK, set())
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            variables = self.shape.variables(self.shape.first_rank + member, gpus)
            if argv is not None:
                os.execvpe(argv[0], argv, {**os.environ, **variables})
        except OSError as error:
            os.write(2, f"stratal: {argv[0] if argv else 'member'}: {error.strerror}\n".encode())
            os._exit(127 if error.errno == 2 else 126)
        except BaseException:
            os._exit(125)
        raise Member(variables)

    def _reap(self) -> None:
        while self.ranks:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self.ranks:
                self._ended(self.ranks.pop(pid), os.waitstatus_to_exitcode(status))

    def _ended(self, rank: int, code: int) -> None:
        if code == 0 or self.failed is not None:
            return
        self.failed = (rank, 128 - code if code < 0 else code)
        if self.ranks and not self.asked:
            self._copy()
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            self._say(f"rank {rank} {how}: the other {len(self.ranks)} of its gang are ended")
        if not self.asked:
            self._signal(signal.SIGTERM)
            self.kill_at = time.monotonic() + self.grace

    def _signal(self, signum: int) -> None:
        for pid in self.ranks:
            for target in (os.killpg, os.kill):
                try:
                    target(pid, signum)
                    break
                except OSError:
                    continue

    # -- output --------------------------------------------------------------------------------

    def _copy(self, *, last: bool = False) -> bool:
        """Copy what the members wrote since; False when that was nothing."""
        news = False
        for member in range(self.shape.here):
            while block := os.pread(FIRST_LOG_FD + member, _BLOCK, self.copied[member]):
                news = True
                self.copied[member] += len(block)
                *lines, self.partial[member] = (self.partial[member] + block).split(b"\n")
                self._lines(member, lines)
                if len(self.partial[member]) > _BLOCK:
                    self._lines(member, [self.partial[member]])
                    self.partial[member] = b""
            if last and self.partial[member]:
                self._lines(member, [self.partial[member]])
                self.partial[member] = b""
        return news

    def _lines(self, member: int, lines: list[bytes]) -> None:
        mark = b"[%d] " % (self.shape.first_rank + member)
        _write(b"".join(mark + line + b"\n" for line in lines))

    def _say(self, text: str) -> None:
        _write(f"stratal: {text}\n".encode())


def _write(data: bytes) -> None:
    while data:
        try:
            data = data[os.write(1, data) :]
        except OSError:  # a full disk: the members' own files are what counts
            return
