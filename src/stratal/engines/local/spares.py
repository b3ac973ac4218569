"""What waits to become the next workload: a launcher with a box and, in it, a zygote's fork that has no order yet.

One per zygote that jobs are started from and shape of box, a few in all, made anew behind each that was taken. It knows
what its box is made of (`sandbox.standing`: the environment, the size of its shared memory, the platform's address) and
nothing of any project: no folder, variable, credential or program. It is given to the next workload that would get the
same box; then its launcher takes that attempt on as every launcher does, the workload's own folders are mounted, and its
order goes in.

A spare ends when its channel does, so with its keeper; the keeper lets it go with its zygote, and when no job came for as
long as a zygote may be unused. A folder per spare holds its private files. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time

from stratal.engines.local import forked, launcher, process, sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from stratal.engines.local.nursery import Offer, Zygote

_MOST = 4
_DELAY_SECONDS = 0.03
"""The workload that took the last one comes first."""
_PATIENCE = 30.0
_REST_SECONDS = 60.0
_MESSAGE = 16 << 10


class Spare:
    """One, from its start to its end or to its workload. Not `ready`: it is on its way."""

    def __init__(
        self, zygote: Zygote, standing: dict[str, Any], path: str, channel: socket.socket, pid: int
    ) -> None:
        self.zygote = zygote
        self.standing = standing
        self.places = sandbox.places(standing)
        self.path = path
        self.channel = channel
        self.pid = pid
        self.started = process.start_time(pid) or 0
        self.shepherd = 0
        self.ready = False
        self.born = time.monotonic()

    def fits(self, spec: dict[str, Any]) -> bool:
        """True when the box of this workload is this one, with its own folders mounted on top."""
        return sandbox.standing(spec) == self.standing and not sandbox.hides(spec, self.places)

    def order(self, folder: str, nonce: str, teller: int) -> None:
        """Have it take on the attempt of this folder, telling news on `teller`. Raises `OSError`."""
        socket.send_fds(self.channel, [json.dumps([folder, nonce]).encode()], [teller])


class Spares:
    """`offer` has a zygote fork."""

    def __init__(
        self,
        root: str,
        listen: Callable[[int, Callable[[], None]], None],
        deaf: Callable[[int], None],
        offer: Callable[[Zygote], Offer | None],
    ) -> None:
        self._root = root
        self._listen = listen
        self._deaf = deaf
        self._offer = offer
        self._all: list[Spare] = []
        self._leaving: list[Spare] = []
        self._wanted: dict[Zygote, tuple[float, dict[str, Any]]] = {}
        """When one is to be made, of what."""
        self._rests_until = 0.0

    def want(self, zygote: Zygote, standing: dict[str, Any]) -> None:
        """See that one is there, soon, for the next workload of this zygote that gets such a box."""
        now = time.monotonic()
        if now >= self._rests_until:
            self._wanted[zygote] = (now + _DELAY_SECONDS, standing)

    def take(self, zygote: Zygote, spec: dict[str, Any]) -> Spare | None:
        """A spare that this workload can be; it is the caller's then."""
        for spare in self._all:
            if spare.zygote is zygote and spare.ready and spare.fits(spec):
                if process.lives(spare.pid, spare.started):
                    self._all.remove(spare)
                    self._deaf(spare.channel.fileno())
                    return spare
                self._let_go(spare)
                return None
        return None

    def tick(self, idle_seconds: float) -> float | None:
        """Make those that are due, and let go of what nobody came for. Returns when to be called again, in seconds."""
        now = time.monotonic()
        for zygote, (due, standing) in list(self._wanted.items()):
            if now >= due:
                del self._wanted[zygote]
                self._see_to(zygote, standing)
        for spare in list(self._all):
            if now - spare.born > (idle_seconds if spare.ready else _PATIENCE):
                self._let_go(spare)
        self._clear()
        return min((max(0.0, due - now) for due, _ in self._wanted.values()), default=None)

    def _see_to(self, zygote: Zygote, standing: dict[str, Any]) -> None:
        if any(spare.zygote is zygote and spare.standing == standing for spare in self._all):
            return
        if len(self._all) >= _MOST:
            self._let_go(min(self._all, key=lambda one: one.born))
        path = f"{self._root}/{os.urandom(6).hex()}"
        with contextlib.suppress(OSError):
            os.makedirs(path, mode=0o700)
            self._make(zygote, standing, path)

    def _make(self, zygote: Zygote, standing: dict[str, Any], path: str) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        offer = self._offer(zygote)
        if offer is None:
            for end in (ours, theirs):
                end.close()
            process.remove_tree(path)
            return
        try:
            pid = os.fork()
            if pid == 0:
                _stand_by(path, standing, theirs, offer)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            offer.channel.close()
        spare = Spare(zygote, standing, path, ours, pid)
        self._all.append(spare)
        ours.setblocking(False)
        self._listen(ours.fileno(), lambda: self._told(spare))

    def _told(self, spare: Spare) -> None:
        said = b""
        try:
            said = spare.channel.recv(_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            pass
        if not said:
            self._let_go(spare)
            if not spare.ready:  # what failed once fails again
                self._rests_until = time.monotonic() + _REST_SECONDS
            return
        spare.ready = True
        spare.shepherd = int(said)
        record = {"launcher": [spare.pid, spare.started], "python": spare.standing["python"]}
        with contextlib.suppress(OSError):  # for people
            process.write_json(f"{spare.path}/spare.json", record, durable=False)

    # -- ending ----------------------------------------------------------------------------------

    def dismiss(self, zygote: Zygote) -> None:
        """The zygote goes."""
        self._wanted.pop(zygote, None)
        for spare in [one for one in self._all if one.zygote is zygote]:
            self._let_go(spare)

    def rest(self) -> None:
        """Let all go, and make none for a while: there is no memory for them."""
        for spare in list(self._all):
            self._let_go(spare)
        self._wanted.clear()
        self._rests_until = time.monotonic() + _REST_SECONDS

    def _let_go(self, spare: Spare) -> None:
        self._all.remove(spare)
        self._deaf(spare.channel.fileno())
        spare.channel.close()
        self._leaving.append(spare)

    def _clear(self) -> None:
        gone = [spare for spare in self._leaving if not process.lives(spare.pid, spare.started)]
        for spare in gone:
            self._leaving.remove(spare)
            process.remove_tree(spare.path)  # where it was killed

    def load(self) -> None:
        """Those of an earlier keeper end with it: clear away what they leave."""
        process.remove_tree(self._root)

    def living(self) -> list[int]:
        """The launchers of all that are there, those on their way out included."""
        self._clear()
        return [spare.pid for spare in (*self._all, *self._leaving)]

    def of(self, zygote: Zygote) -> Iterable[int]:
        """The processes that wait for this zygote's next workload."""
        for spare in self._all:
            if spare.zygote is zygote:
                for first in filter(None, (spare.pid, spare.shepherd)):
                    yield from (first, *process.descendants(first))


# -- the launcher's side -----------------------------------------------------------------------------


def _stand_by(path: str, standing: dict[str, Any], channel: socket.socket, offer: Offer) -> None:
    """In a fork of the keeper: get all ready, wait to be told of an attempt, and be its launcher. Does not return."""
    code = 1
    try:
        launcher.detach({channel.fileno(), offer.channel.fileno(), *offer.box}, f"{path}/log")
        process.rename(launcher.title(path, "waiting"))
        fork = forked.Fork(offer)
        told = _wait(path, standing, channel, fork)
        if told is None:
            fork.undo()
            process.signal_all(reversed(process.descendants(os.getpid())), signal.SIGKILL)
        else:
            folder, nonce, teller = told
            launcher.tell_errors(f"{folder}/launcher.log")
            process.remove_tree(path)
            launcher.launch(folder, nonce, teller, None, fork)
        code = 0
    except SystemExit as end:
        print(end, file=sys.stderr, flush=True)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError):
            process.remove_tree(path)
        os._exit(code)


def _wait(
    path: str, standing: dict[str, Any], channel: socket.socket, fork: forked.Fork
) -> tuple[str, str, int] | None:
    """Folder and nonce of the attempt, and where to tell of it; None when it will not be."""
    private = f"{path}/private"
    process.become_subreaper()
    try:
        sandbox.write_private(standing, private)
        fork.stand(standing, private, lacks_own=True)
        fork.stands()
        channel.send(str(fork.pid).encode())
        if not fork.wait_beside(channel):
            return None
        data, descriptors, _, _ = socket.recv_fds(channel, _MESSAGE, 1)
    except (OSError, ValueError, IndexError) as error:
        print(f"none can wait here: {error}", file=sys.stderr, flush=True)
        return None
    if not data:
        return None
    channel.close()
    folder, nonce = json.loads(data)
    os.rename(private, f"{folder}/private")
    return folder, nonce, descriptors[0]
