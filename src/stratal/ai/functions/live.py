"""Functions (or apps) in memory: what the path of a request needs to know. `rollout` and `service` tell of every change."""

from dataclasses import replace
from typing import Any

from stratal.ai.functions.model import KIND, Function, Revision
from stratal.compute.services.service import Service
from stratal.kernel.errors import NotFound


class Live:
    """A function. `active` answers, by `service`; `deploying` is the newest revision that is not ready yet.

    What its service's replicas can do is its kind's: `FunctionReplica` or `AppReplica` (see `runtime`).
    """

    def __init__(self, function: Function) -> None:
        self.function = function
        self.active: Revision | None = None
        self.service: Service[Any] | None = None
        self.deploying: Revision | None = None
        self.failure = ""
        self.left: dict[int, str] = {}
        """Who deployed a revision and has left the project since, by its `seq` (`departures`)."""

    @property
    def is_public(self) -> bool:
        """May anybody ask it now? Not when whoever let anybody in is nobody here any more."""
        active = self.active
        return active is not None and active.wishes.public and active.seq not in self.left


class Registry:
    """Every function of the instance (or every app: `kind`), by project and name."""

    def __init__(self, kind: str = KIND) -> None:
        self._kind = kind
        self._live: dict[tuple[str, str], Live] = {}
        self._named: dict[tuple[str, str], Live] = {}
        self._labelled: dict[str, Live] = {}

    def put(self, live: Live) -> None:
        self._live[live.function.project_id, live.function.name] = live
        self._named[live.function.project, live.function.name] = live
        if live.function.label is not None:
            self._labelled[live.function.label] = live

    def drop(self, live: Live) -> None:
        self._live.pop((live.function.project_id, live.function.name), None)
        self._named.pop((live.function.project, live.function.name), None)
        self._labelled.pop(live.function.label or "", None)

    def find(self, project_id: str, name: str) -> Live | None:
        return self._live.get((project_id, name))

    def get(self, project_id: str, name: str) -> Live:
        """Raises `NotFound`."""
        live = self.find(project_id, name)
        if live is None:
            raise no_such_function(name, self._kind)
        return live

    def named(self, project: str, name: str) -> Live | None:
        """The function with this name in the project with this name."""
        return self._named.get((project, name))

    def public(self, project: str, name: str) -> Live | None:
        """The function that anybody may call under these names; None: there is none, or it is not public."""
        live = self.named(project, name)
        return live if live is not None and live.is_public else None

    def labelled(self, label: str) -> Live | None:
        """The app whose host name begins so."""
        return self._labelled.get(label)

    def by_id(self, function_id: str) -> Live | None:
        return next((live for live in self._live.values() if live.function.id == function_id), None)

    def all(self) -> list[Live]:
        return list(self._live.values())

    def change(self, live: Live, **values: Any) -> None:
        """Note changed columns of the function's row."""
        live.function = replace(live.function, **values)


def no_such_function(name: str, kind: str = KIND) -> NotFound:
    return NotFound(
        f"There is no {kind} {name[:100]!r} in this project.",
        hint=f"List them with: stratal {kind} ls",
        reason=f"no_such_{kind}",
    )
