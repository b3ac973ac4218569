"""Services: work that is kept alive, as many replicas as it is asked for, none when nobody asks.

A *service* keeps between `Scaling.least` and `Scaling.most` replicas of one unchanging thing (a revision
of an endpoint, a version of a function). It starts them when requests come, hands each request to the
replica with the fewest, lets what does not fit wait in a bounded queue, restarts what dies with growing
pauses, puts replicas to sleep that nobody needs, and finds them again when the server was killed. It
does not know what a replica is: its user says how one is started and talked to (`port.Blueprint`), keeps
the wishes (`Scaling`) in rows of its own, and replaces one service by the next when what is run changes.

    class Greeter:                                       # a Blueprint: what this room knows of its replicas
        async def spec(self, attempt_id, folder): ...    # put files into `folder`, return the WorkloadSpec
        async def connect(self, folder): ...             # the connected replica (port.Replica), once it listens
        async def welcome(self, replica): ...            # refuse one that is not what was asked for, or return

    name = ServiceName("function", owner="fn_1", version="3", project_id="prj_1")
    service = services.keep(name, Greeter(), Scaling(least=0, most=4, concurrency=8, idle_seconds=300))
    await services.settle("function")                    # once, after all of the kind are kept: strays end
    async with service.claim() as replica:               # waits for a waking one; Unavailable, Busy
        answer = await replica.ask(...)                  # port.Broken: it died under the request
    await new.ready(service.awake or 1)                  # replacing it: the new one first …
    await service.close(stop=True)                       # … then the old one, when it has answered all

Replicas count against the machine's processors and memory beside the jobs (`model.Needs`); one for which
there is no room makes idle ones of other services give way, else its requests are told so.
"""
