"""Workspaces: notebooks that a project's people work in together, each a server of its own in a sandbox.

Owns: workspaces and what is wished of them, the folder that each keeps its files in (on this machine's disk, named
by id), every save of a file as immutable content, who may look in from a browser right now (visits), and starting,
stopping and idling them. What runs in one acts with a credential of the workspace's own, made when it starts and
ended when it stops.
Refuses: to know which notebook server it is (`runtime.Program` does), to carry requests to it (a door does), and to
let anybody in who is no editor of the project now: whoever works in a workspace acts with its credential.
"""
