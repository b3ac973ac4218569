"""Keeping one service answering: replicas started when requests come, each request with the least loaded one.

    asleep ──request──▶ waking ──welcome──▶ awake ──idle──▶ asleep
                          │ cannot start        └──all died──▶ waking (after a pause that grows)
                          └──▶ failing: requests are told why, at once; the next try is allowed after a pause

Whoever sends a request holds a claim on a replica, so none is stopped under one. A request that finds no
free replica waits in line; the line is bounded.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Generic

from stratal.compute.services.model import Condition, Needs, ReplicaState, Scaling, ServiceName
from stratal.compute.services.port import Blueprint, CannotStart, R
from stratal.compute.services.replicas import GRACE_SECONDS, NoRoom, Replicas, Running
from stratal.kernel.errors import Busy, StratalError, Unavailable

log = logging.getLogger("stratal.services")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 60.0
_AGAIN_SECONDS = 0.5
_STEADY_SECONDS = 60.0
"""A replica that lived so long, or that answered, has proven itself: the pauses begin anew."""

Refusal = Callable[[], StratalError]
"""Why nothing is taken at present."""
MakeRoom = Callable[[Needs], Awaitable[bool]]
"""Have an idle replica of another service end; False when there is none."""


class _Member(Generic[R]):
    """A replica that answers, and who is at it."""

    __slots__ = ("answered", "born", "claims", "freed", "replica", "running", "used")

    def __init__(self, running: Running[R], now: float) -> None:
        self.running = running
        self.replica = running.replica
        self.claims = 0
        self.answered = 0
        self.born = self.used = now
        self.freed: asyncio.Event | None = None
        """Set while it drains: told when its last request is answered."""


class Claim(Generic[R]):
    """A place at a replica: ``async with service.claim() as replica``. Raises what `Service.claim` says."""

    __slots__ = ("_member", "_service", "_size")

    def __init__(self, service: "Service[R]", size: int) -> None:
        self._service = service
        self._size = size
        self._member: _Member[R] | None = None

    async def __aenter__(self) -> R:
        self._member = member = await self._service._enter(self._size)
        return member.replica

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._member is not None
        self._service._leave(self._member, self._size)


class Service(Generic[R]):
    """Made and started by `Services.keep`."""

    def __init__(
        self,
        name: ServiceName,
        blueprint: Blueprint[R],
        scaling: Scaling,
        needs: Needs,
        replicas: Replicas,
        make_room: MakeRoom,
    ) -> None:
        self.name = name
        self.blueprint = blueprint
        self.scaling = scaling
        self.needs = needs
        self.failure = ""
        self.deaths = 0
        """Replicas that ended unasked since this server started."""
        self._replicas = replicas
        self._make_room = make_room
        self._loop = asyncio.get_running_loop()
        self._members: list[_Member[R]] = []
        self._draining: list[_Member[R]] = []
        self._starting: set[asyncio.Task[None]] = set()
        self._aside: set[asyncio.Task[None]] = set()
        self._waiting: deque[asyncio.Future[_Member[R]]] = deque()
        self._claims = 0
        self._held_bytes = 0
        self._needed: dict[int, float] = {}
        """When the load last needed so many replicas (the loop's clock)."""
        self._used = self._loop.time()
        self._warm = False
        self._asked = 0
        self._retry_at = 0.0
        self._failed_in_a_row = 0
        self._look = asyncio.Event()
        self._news = asyncio.Event()
        self._closing = False
        self._refusal: Refusal | None = None
        self._halted = False
        self._quiet: asyncio.Event | None = None
        """Told, when it is to be closed, once nobody is asking any more."""
        self._task: asyncio.Task[None] | None = None

    # -- for requests --------------------------------------------------------------------------

    def claim(self, size: int = 0) -> Claim[R]:
        """A place at a replica for one request of `size` bytes, woken if need be: use it with ``async with``.

        Entering it raises `Busy` when all replicas that there may be have as much as they and the line can
        take, and `Unavailable` when none answers yet and the line is full, when none can be started, or when
        the service was closed; all but the last with ``retry_after_seconds``. While it is limited, what `limit` was told.
        """
        return Claim(self, size)

    async def _enter(self, size: int) -> _Member[R]:
        if self._refusal is not None:
            raise self._refusal()
        member = None if self._waiting else self._free()
        if self._held_bytes + size > self.scaling.held_bytes:
            raise self._overloaded()
        if member is None:
            return await self._wait(size)
        self._take(member)
        self._held_bytes += size
        return member

    def _free(self) -> _Member[R] | None:
        """The replica with the fewest requests that takes another one."""
        fewest, found = self.scaling.concurrency, None
        for member in self._members:
            if member.claims < fewest and not member.replica.closed:
                fewest, found = member.claims, member
        return found

    def _take(self, member: _Member[R]) -> None:
        member.claims += 1
        self._claims += 1
        if len(self._members) > 1:
            self._needed[self.scaling.wanted(self.load)] = self._loop.time()

    async def _wait(self, size: int) -> _Member[R]:
        self._refuse()
        if len(self._waiting) >= self.scaling.queue:
            raise self._overloaded()
        place: asyncio.Future[_Member[R]] = self._loop.create_future()
        self._waiting.append(place)
        self._held_bytes += size
        self._needed[self.scaling.wanted(self.load)] = self._loop.time()
        self._look.set()
        try:
            return await place
        except BaseException:
            if place.done() and not place.cancelled() and place.exception() is None:
                self._leave(place.result(), size)  # given up in the moment in which it was its turn
            else:
                self._held_bytes -= size
                with contextlib.suppress(ValueError):
                    self._waiting.remove(place)
            raise

    def _leave(self, member: _Member[R], size: int) -> None:
        self._held_bytes -= size
        self._claims -= 1
        member.claims -= 1
        member.used = self._used = self._loop.time()
        if not member.replica.closed:
            member.answered += 1
        if member.freed is not None and not member.claims:
            member.freed.set()
        if self._waiting:
            self._hand_over()
        if self._quiet is not None and not self.load:
            self._quiet.set()

    def _hand_over(self) -> None:
        """Give free replicas to those who wait, in the order in which they came."""
        while self._waiting:
            place = self._waiting[0]
            if not place.done():
                member = self._free()
                if member is None:
                    return
                self._take(member)
                place.set_result(member)
            self._waiting.popleft()

    def _refuse(self) -> None:
        """Raise `Unavailable` when waiting would be in vain."""
        if self._closing:
            raise Unavailable(f"The {self.name.kind} was stopped.", reason=f"{self.name.kind}_stopped")
        if self.condition is Condition.FAILING and self._loop.time() < self._retry_at:
            raise self._why_failing()

    def _why_failing(self) -> Unavailable:
        return Unavailable(
            f"No replica can be started: {self.failure}",
            hint=f"Its log: stratal {self.name.kind} logs NAME",
            reason=f"{self.name.kind}_failed",
            retry_after_seconds=max(1, round(self._retry_at - self._loop.time())),
        )

    def _overloaded(self) -> StratalError:
        if self._members:
            return Busy(
                f"The {self.name.kind} has as many requests as its replicas and its line take "
                f"({self._claims} in flight, {len(self._waiting)} waiting).",
                hint="Send them more slowly, or allow more replicas.",
                reason=f"{self.name.kind}_overloaded",
                retry_after_seconds=1,
            )
        return Unavailable(
            f"The {self.name.kind} is waking, and has as many requests waiting as it holds "
            f"({len(self._waiting)}).",
            hint="Try again in a moment.",
            reason=f"{self.name.kind}_overloaded",
            retry_after_seconds=1,
        )

    # -- looking -------------------------------------------------------------------------------

    @property
    def condition(self) -> Condition:
        if self._members:
            return Condition.AWAKE
        if self._starting:
            return Condition.WAKING
        if self.failure:
            return Condition.FAILING
        return Condition.WAKING if self._target() else Condition.ASLEEP

    @property
    def load(self) -> int:
        """Requests in flight and waiting."""
        return self._claims + len(self._waiting)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def awake(self) -> int:
        """How many replicas answer."""
        return len(self._members)

    @property
    def dozes(self) -> bool:
        """Asleep, with a replica that waits to be woken."""
        return self._replicas.warmth.dozes(self.name)

    @property
    def one(self) -> R | None:
        """One that answers, for what it told of itself."""
        return self._members[0].replica if self._members else None

    def states(self) -> Sequence[ReplicaState]:
        """The replicas that answer, oldest first, and those that only finish what they have."""
        return [
            ReplicaState(m.running.attempt_id, m.claims, m.answered, m.freed is not None)
            for m in (*self._members, *self._draining)
        ]

    async def changed(self) -> None:
        """Wait for the next change of its replicas."""
        await self._news.wait()

    async def ready(self, count: int = 1) -> None:
        """Wake it, and wait until `count` replicas answer (as many as there may be, if that is less).

        Raises `Unavailable` with why no replica can be started, or what `limit` was told.
        """
        count = min(count, self.scaling.most)
        self._asked = count
        self._look.set()
        try:
            while len(self._members) < count:
                if self._refusal is not None:
                    raise self._refusal()
                self._refuse()
                if self.failure and not self._starting and self._loop.time() < self._retry_at:
                    raise self._why_failing()
                await self._news.wait()
        finally:
            self._asked = 0
            self._needed[count] = self._used = self._loop.time()

    def change(self, scaling: Scaling) -> None:
        """Have other wishes from now on; replicas that are too many go when they are idle."""
        self.scaling = scaling
        self._look.set()
        self._hand_over()

    # -- life ----------------------------------------------------------------------------------

    def start(self, adopt: Sequence[str] = ()) -> None:
        """Begin, asleep; `adopt`: replicas with these attempt ids are taken over if they still live."""
        for attempt_id in adopt:
            self._begin(self._adopt(attempt_id))
        self._task = asyncio.create_task(self._run(), name=f"upkeep of {self.name}")

    async def close(self, *, stop: bool) -> None:
        """End the upkeep. `stop`: end the replicas too, after what they were asked is answered; else they go on alone."""
        self._replicas.warmth.cool(self.name)
        if stop:
            self._quiet = asyncio.Event()
            if self.load:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(GRACE_SECONDS):
                        await self._quiet.wait()
        self._closing = True
        self._reject(Unavailable(f"The {self.name.kind} was stopped.", reason=f"{self.name.kind}_stopped"))
        members, self._members, self._draining = [*self._members, *self._draining], [], []
        tasks = [task for task in (self._task, *self._starting, *self._aside) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tell()
        if stop:
            await asyncio.gather(*(self._replicas.stop(m.running, GRACE_SECONDS) for m in members))
        for member in members:
            member.replica.close()

    async def give_way(self) -> bool:
        """End the idlest replica that nobody needs now, for others' sake; False when there is none."""
        idle = [m for m in self._members if not m.claims and m.replica.busy_since is None]
        if not idle or self._waiting or len(self._members) <= self.scaling.floor:
            return False
        member = min(idle, key=lambda m: m.used)
        self._warm = len(self._members) > 1
        self._retire(member)
        await self._drain(member)
        return True

    @property
    def idle_since(self) -> float:
        """When it was last used (the loop's clock)."""
        return self._used

    async def _run(self) -> None:
        while True:
            self._look.clear()
            try:
                pause = self._reconcile()
            except Exception:
                log.exception("the upkeep of %s failed", self.name)
                pause = _FIRST_PAUSE
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._look.wait()

    def _reconcile(self) -> float | None:
        """Start what is missing, end what is too much; returns for how long nothing needs to be looked at."""
        now = self._loop.time()
        looks: list[float] = []
        target = self._target()
        missing = target - len(self._members) - len(self._starting)
        if missing > 0 and now < self._retry_at:
            looks.append(self._retry_at)
        elif missing > 0:
            for _ in range(missing):
                self._begin(self._start())
        for member in list(self._members):
            since = member.replica.busy_since
            if self.scaling.stuck_seconds is not None:
                looks.append((now if since is None else since) + self.scaling.stuck_seconds)
                if since is not None and now - since > self.scaling.stuck_seconds:
                    self._lost(member, "silent for too long", grace=1)
        if self._halted:
            self._warm = False
            for member in list(self._members):
                self._retire(member)
                self._side(self._drain(member))
        surplus = self._surplus_at()
        while surplus is not None and surplus <= now and self._end_one():
            surplus = self._surplus_at()
        if surplus is not None:
            looks.append(surplus if surplus > now else now + _AGAIN_SECONDS)
        return max(min(looks) - now, 0.01) if looks else None

    def limit(self, refusal: Refusal | None, *, halt: bool) -> None:
        """Take nothing new and say why; `halt`: nor have replicas, whatever else was wished. None: be as before.

        What was taken is answered; when it halts, what is waiting is not, and what is being answered has the
        time that a replica gets to end.
        """
        changed = (self._refusal is None) != (refusal is None) or halt != self._halted
        self._refusal, self._halted = refusal, halt
        if halt and refusal is not None:
            self._reject(refusal())
        if changed:
            self._look.set()
            self._tell()

    def _target(self) -> int:
        """How many replicas there should be now: what the load needs; one for a while after it was last used."""
        if self._halted:
            return 0
        target = max(self.scaling.wanted(self.load), min(self._asked, self.scaling.most))
        if target == 0 and self._warm and self._loop.time() - self._used < self.scaling.idle_seconds:
            return 1
        return target

    def _surplus_at(self) -> float | None:
        """When the next replica may go, if nothing comes until then; None: all are needed."""
        count = len(self._members)
        if count <= max(self.scaling.floor, self._asked):
            return None
        if count == 1:
            return (self._loop.time() if self.load else self._used) + self.scaling.idle_seconds
        needed = max((at for n, at in self._needed.items() if n >= count), default=0.0)
        youngest = max(member.born for member in self._members)
        return max(needed, youngest) + self.scaling.surplus_seconds

    def _end_one(self) -> bool:
        """End the replica with the least to do; the last one only while it has nothing (else False)."""
        member = min(self._members, key=lambda m: (m.claims, m.used))
        if len(self._members) == 1:
            if member.claims or member.replica.busy_since is not None:
                return False
            self._warm = False
        self._retire(member)
        self._side(self._drain(member))
        return True

    def _retire(self, member: _Member[R]) -> None:
        """Give it nothing more."""
        self._members.remove(member)
        self._draining.append(member)
        member.freed = asyncio.Event()
        self._tell()

    async def _drain(self, member: _Member[R]) -> None:
        """End a retired replica when it has answered what it has."""
        assert member.freed is not None
        try:
            if member.claims:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(GRACE_SECONDS):
                        await member.freed.wait()
            await asyncio.shield(self._replicas.stop(member.running, GRACE_SECONDS))
        finally:
            if member in self._draining:
                self._draining.remove(member)
        if self.condition is Condition.ASLEEP and not self._draining and not self._halted:
            self._replicas.warmth.sleeps(self.name)

    # -- starting ------------------------------------------------------------------------------

    def _begin(self, work: Any) -> None:
        task = asyncio.create_task(work, name=f"a replica of {self.name}")
        self._starting.add(task)
        task.add_done_callback(self._began)

    def _began(self, task: "asyncio.Task[None]") -> None:
        self._starting.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("starting a replica of %s failed", self.name, exc_info=task.exception())
        self._look.set()
        self._tell()

    async def _adopt(self, attempt_id: str) -> None:
        running = await self._replicas.adopt(self.blueprint, attempt_id)
        if running is not None:
            self._join(running)

    async def _start(self) -> None:
        try:
            running = await self._started()
        except (CannotStart, StratalError) as error:
            self._failed(str(error))
        except Exception as error:
            log.exception("starting a replica of %s failed", self.name)
            self._failed(f"{type(error).__name__}: {error}")
        else:
            self._join(running)

    async def _started(self) -> Running[R]:
        """A replica; where there is no room, idle ones of other services give way first."""
        while True:
            try:
                return await self._replicas.start(self.name, self.blueprint, self.needs)
            except NoRoom:
                if not await self._make_room(self.needs):
                    raise

    def _join(self, running: Running[R]) -> None:
        member = _Member(running, self._loop.time())
        self._members.append(member)
        self._retry_at = 0.0
        self.failure = ""
        self._warm = True
        self._used = max(self._used, member.born)
        self._side(self._attend(member))
        self._hand_over()
        self._tell()

    def _failed(self, why: str) -> None:
        self._failed_in_a_row += 1
        self.failure = why
        self._warm = False
        self._retry_at = self._loop.time() + self._pause()
        log.warning("no replica of %s can be started: %s", self.name, why)
        if not self._members and len(self._starting) <= 1:
            self._reject(self._why_failing())
        self._tell()

    # -- dying ---------------------------------------------------------------------------------

    async def _attend(self, member: _Member[R]) -> None:
        await member.replica.wait_closed()
        if member in self._members:
            self._lost(member, "gone", grace=GRACE_SECONDS)

    def _lost(self, member: _Member[R], why: str, *, grace: float) -> None:
        """A replica ended unasked, or has to: another one is started after a pause."""
        self._members.remove(member)
        self.deaths += 1
        proven = member.answered or self._loop.time() - member.born > _STEADY_SECONDS
        self._failed_in_a_row = 1 if proven else self._failed_in_a_row + 1
        self._retry_at = self._loop.time() + self._pause()
        log.warning("a replica of %s is %s: %s", self.name, why, member.running.attempt_id)
        self._side(self._replicas.stop(member.running, grace))
        self._look.set()
        self._tell()

    def _pause(self) -> float:
        return float(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._failed_in_a_row - 1, 10)))

    def _reject(self, error: StratalError) -> None:
        """Tell all who wait."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_exception(error)

    def _side(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._aside.add(task)
        task.add_done_callback(self._done_aside)

    def _done_aside(self, task: "asyncio.Task[None]") -> None:
        self._aside.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("the upkeep of %s failed", self.name, exc_info=task.exception())

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
