"""Functions: a Python function of somebody's file, answering requests, called later, and tried again.

Owns: functions and their immutable revisions, the replicas that run them (services of compute), and invocations:
what was asked, what came of it, and its log. Calls wait for a waking replica; later ones are rows that survive
whatever dies, are tried again with pauses, and end as *dead* when nothing helped.
Refuses: running anything here (`engines.functions` does, in the sandbox), and knowing HTTP (the door does).
Others use: `room.furnish`, `service.Functions`, `calling.Calling`, `invocations.Invocations`.
"""
