"""JupyterLab, and Jupyter's terminals by themselves: served on a socket, by the server that both have in common."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

from stratal_workspace.channel import Channel
from stratal_workspace.outbox import Outbox
from stratal_workspace.recovery import recover
from stratal_workspace.watching import watch

_LOOK_MILLISECONDS = 2000
_SAVING_SECONDS = 10.0


def serve(program: str, near: str, place: str, secret: str, channel: Channel, outbox: Outbox) -> None:
    _settle_in(f"{place}/home")
    if program == "jupyter":
        for path in recover(place):
            outbox.put(path)
    else:
        watch(place, outbox)
    server = _server(program, _settings(near, place, secret))
    signal.signal(signal.SIGTERM, lambda *_: server.io_loop.add_callback_from_signal(_stop, server))
    server.io_loop.add_callback(channel.ready)
    _tell_when_busy(server, channel)
    server.start()


def _settle_in(home: str) -> None:
    """What people may change for themselves later: nobody is asked about news of other software."""
    path = f"{home}/.jupyter/labconfig/page_config.json"
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            json.dump({"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}, file)


def _settings(near: str, place: str, secret: str) -> dict[str, object]:
    return {
        "ServerApp.sock": f"{near}/server.sock",
        "ServerApp.sock_mode": "0600",
        "ServerApp.root_dir": f"{place}/files",
        "ServerApp.base_url": "/",
        "ServerApp.open_browser": False,
        "ServerApp.quit_button": False,
        # Who asks for which host, from which page, was looked at by the platform, which alone reaches the socket.
        "ServerApp.allow_remote_access": True,
        "ServerApp.allow_root": True,
        "ServerApp.identity_provider_class": "stratal_workspace.people.People",
        "ServerApp.contents_manager_class": "stratal_workspace.contents.KeptContents",
        "IdentityProvider.token": secret,
        "FileContentsManager.delete_to_trash": False,
        "LabApp.check_for_updates_class": "jupyterlab.handlers.announcements.NeverCheckForUpdate",
        "LabApp.extension_manager": "readonly",
        "SQLiteYStore.db_path": f"{place}/state/documents.db",
        "YDocExtension.session_store_path": f"{place}/state/sessions.json",
        "BaseFileIdManager.db_path": f"{place}/state/files.db",
    }


def _server(program: str, settings: dict[str, object]) -> Any:
    if program == "terminal":
        from notebook.app import JupyterNotebookApp as App
    else:
        from jupyterlab.labapp import LabApp as App

    # As arguments: they go before whatever the workspace's own configuration files say.
    return App.initialize_server(argv=[f"--{name}={value}" for name, value in settings.items()])


# -- while it runs -------------------------------------------------------------------------------


def _tell_when_busy(server: Any, channel: Channel) -> None:
    from tornado.ioloop import PeriodicCallback

    PeriodicCallback(lambda: channel.tell(busy=_is_busy(server)), _LOOK_MILLISECONDS).start()


def _is_busy(server: Any) -> bool:
    """Does a kernel compute, or a terminal run something?"""
    kernels = getattr(server.kernel_manager, "_kernels", {})
    if any(getattr(kernel, "execution_state", "") == "busy" for kernel in kernels.values()):
        return True
    manager = server.web_app.settings.get("terminal_manager")
    for terminal in getattr(manager, "terminals", {}).values():
        pid = terminal.ptyproc.pid
        try:
            with open(f"/proc/{pid}/task/{pid}/children") as file:
                if file.read().strip():
                    return True
        except OSError:
            continue
    return False


async def _stop(server: Any) -> None:
    """Save what people have open, then end."""
    try:
        async with asyncio.timeout(_SAVING_SECONDS):
            for extension in server.extension_manager.extension_apps.get("jupyter_server_ydoc", ()):
                for room in list(extension.ywebsocket_server.rooms.values()):
                    if hasattr(room, "_maybe_save_document"):
                        await room._maybe_save_document(room._saving_document, save_now=True)
    except Exception:
        server.log.exception("saving what was open failed; it is in the store of documents")
    server.stop()
