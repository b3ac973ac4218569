"""Notebook servers: JupyterLab with its live co-editing, as a workspace's program, and the server's end of its socket.

Owns: the adapter of `stratal.collab.workspaces.runtime.Program`, and which versions of it are run.
Refuses: knowing what a workspace is for, and running anything of it in the server: `replica` does that, in the
sandbox, by the Python of the workspace's own environment.
"""
