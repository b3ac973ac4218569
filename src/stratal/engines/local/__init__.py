"""The local engine: workloads as processes of this machine, which outlive the server.

    server ── `adapter.LocalEngine` ──unix socket── `keeper` ── `launcher` ── [bubblewrap ── `entry`] ── workload

- `keeper` starts launchers, watches them and tells who asks. It holds nothing that is not also on disk,
  so it may be killed and started again at any moment.
- `launcher`, one per attempt, holds the limits, accounts, ends the whole tree, and writes the exit code
  itself: that is why the code survives the server and the keeper.
- `entry` is the first step inside the sandbox; it becomes the workload.
- `zygote`, one per environment that is used, has modules loaded and forks workloads. The keeper's `nursery` makes them and
  lets them go; `forked` is the launcher's side of a fork, `shepherd` the zygote's, `pythonrun` what runs the program.
- `gang`, where a workload is several processes that find one another, starts them, all or none.

`keeper`, `launcher`, `entry`, `gang` and what they import (`process`, `wire`, `sandbox`, `landlock`, `cgroup`,
`relay`, `census`) use the standard library alone, sparingly, and are started by `boot.py` in a bare interpreter.

Others use `stratal.engines.local.adapter.LocalEngine` and `stratal.engines.local.probe.probe`.
"""
