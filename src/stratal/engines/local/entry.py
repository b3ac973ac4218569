"""The last step before a workload: fence this very process in, then become the workload.

Inside bubblewrap it runs as a bare interpreter of the workload's own; without, in the launcher's fork.
The launcher says over an inherited socket what to become; the answer is ``ready`` and then silence
(the socket closes as the workload's program takes over), or ``refused`` with the reason.

For a workload that may reach the platform alone, a listening socket is made *here*, in the network
namespace that has nothing but loopback, and handed out: the launcher, outside, accepts and relays.
So no relay runs inside that the workload could disturb, and no path to the platform is mounted.

Standard library only, and little of it.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` without its enums, which cost milliseconds
import _socket
import array
import os

from stratal.engines.local import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

CHANNEL_FD = 3


def main(arguments: Sequence[str]) -> None:
    enter(_socket.socket(fileno=CHANNEL_FD))


def enter(channel: _socket.socket) -> None:
    """Read the plan from `channel` and exec. Does not return."""
    try:
        os.set_inheritable(channel.fileno(), False)
        plan = wire.receive(channel)
        if plan is None:
            os._exit(125)
        argv, environment, (cwd, listen, fence), readable, writable = plan
        if listen:
            lend_listener(channel, listen)
        landlocked = False
        if fence:
            landlocked = _fence(fence, readable, writable)
        os.chdir(cwd)
        for signum in range(1, 32):  # Python ignores some, and a server started in the background others
            if _signal.getsignal(signum) == _signal.SIG_IGN:
                _signal.signal(signum, _signal.SIG_DFL)
        channel.sendall(wire.pack([["ready", "landlock" if landlocked else ""]]))
        os.execvpe(argv[0], argv, dict(pair.split("=", 1) for pair in environment))
    except OSError as error:
        channel.sendall(wire.pack([["refused", str(error.errno or 0), error.strerror or str(error)]]))
    except BaseException as error:
        channel.sendall(wire.pack([["refused", "0", f"{type(error).__name__}: {error}"]]))
    finally:
        os._exit(125)


def _fence(fence: str, readable: Sequence[str], writable: Sequence[str]) -> bool:
    from stratal.engines.local import landlock, process  # start-up time, where no fence is asked

    process.forbid_new_privileges()
    return fence == "landlock" and landlock.restrict(readable, writable)


def lend_listener(channel: _socket.socket, address: str) -> None:
    """Listen on `address`, in this network namespace, and hand the listener out."""
    host, _, port = address.rpartition(":")
    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    listener.bind((host, int(port)))
    listener.listen(128)
    lent = array.array("i", [listener.fileno()])
    channel.sendmsg([wire.pack([["listening"]])], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, lent.tobytes())])
    listener.close()
