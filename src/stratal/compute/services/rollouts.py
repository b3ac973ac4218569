"""Bringing a newer version in the place of an older one: prepared, started beside it, and only then the one that answers.

    prepare ──▶ ready ──▶ switch ──▶ the old one ends when it has answered what it was asked
       └──────────┴─────────┴──▶ failed: the old one goes on answering

Whoever keeps versioned services (endpoints, functions, apps) says in a `Step` what each of these means for one of
its versions; the order, what a newer wish does to an older one that is still on its way, and what a failure leaves
behind are the same for all, and here.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Protocol

from stratal.compute.services.port import CannotStart
from stratal.compute.services.service import Service
from stratal.kernel.errors import StratalError

log = logging.getLogger("stratal.services")


class Step(Protocol):
    """One version on its way. None of its calls comes before the one above it has returned."""

    @property
    def name(self) -> str:
        """What it is, for people who read the log."""
        ...

    async def prepare(self) -> Service[Any] | None:
        """Make all ready that it stands on, and keep its service; None when it is not wanted any more."""
        ...

    async def ready(self) -> None:
        """Wait until it has the replicas that it needs to take over."""
        ...

    async def switch(self) -> bool:
        """Have it answer from here on, durably; False when it is not wanted any more. Nothing of it is undone."""
        ...

    async def switched(self) -> None:
        """It answers: tell, and end what it replaces. A newer one does not interrupt this."""
        ...

    async def failed(self, why: str) -> None: ...

    def dropped(self) -> None:
        """It did not take over, and will not: end what was begun of it."""
        ...

    def over(self) -> None:
        """However it ended."""
        ...


class Rollouts:
    """At most one per owner is under way; `close` lets go, and replicas go on alone until the next start."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._others: set[asyncio.Task[None]] = set()
        self._closing = False

    def begin(self, owner: str, step: Step) -> None:
        """Roll it out, instead of an older one of the owner's that is still on its way."""
        old = self._tasks.pop(owner, None)
        if old is not None:
            old.cancel()
        self._tasks[owner] = asyncio.create_task(self._run(owner, step), name=f"rollout of {step.name}")

    async def abandon(self, owner: str) -> None:
        """Give up what is on its way, and wait until it is."""
        task = self._tasks.pop(owner, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this without being waited for (but by `settled`)."""
        task = asyncio.create_task(work)
        self._others.add(task)
        task.add_done_callback(self._told)

    async def settled(self) -> None:
        """Wait until what was begun aside (replicas that end) is done."""
        while self._others:
            await asyncio.wait(list(self._others))

    async def close(self) -> None:
        self._closing = True
        tasks = [*self._tasks.values(), *self._others]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, owner: str, step: Step) -> None:
        service: Service[Any] | None = None
        taken_over = False
        me = asyncio.current_task()
        try:
            service = await step.prepare()
            if service is None:
                return
            await step.ready()
            taken_over = await step.switch()
            if taken_over:
                self._forget(owner, me)
                await step.switched()
        except asyncio.CancelledError:
            raise
        except (StratalError, CannotStart) as error:
            await step.failed(service.failure if service is not None and service.failure else str(error))
        except Exception as error:
            log.exception("rolling out %s failed", step.name)
            await step.failed(f"{type(error).__name__}: {error}")
        finally:
            if not taken_over and not self._closing:
                step.dropped()
            self._forget(owner, me)
            step.over()

    def _forget(self, owner: str, task: "asyncio.Task[None] | None") -> None:
        if self._tasks.get(owner) is task:
            del self._tasks[owner]

    def _told(self, task: "asyncio.Task[None]") -> None:
        self._others.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("upkeep of services failed", exc_info=task.exception())
