"""The Ray engine: workloads on many machines, with Ray as what finds room for them and notices who is gone.

    server ── `adapter.RayEngine` ──unix socket── `bridge` ──Ray── `supervisor`, an actor for each workload
                                                                     └── the node's keeper ── launcher ── workload
    one per machine: `node`, which runs the raylet and holds every workload's leash

- `bridge` is the only process of the platform that has Ray loaded: the server stays small, and what
  crashes there cannot hurt it. It outlives the server, and holds nothing that is not also on disk.
- `node` starts Ray with the right flags and ends what ran when its raylet or a supervisor is gone. A
  workload never outlives its leash: an attempt that Ray lost is over.
- `supervisor` has the node's own keeper run the workload: limits, sandbox and records are the local
  engine's.

Ray (the extra ``stratal[ray]``) is imported in `cluster`, `supervisor` and `start` only, none of which the
server imports. Others use `stratal.engines.ray.adapter.RayEngine`, `pool` (the pool of a home, and joining it)
and the program `node`.
"""
