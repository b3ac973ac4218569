"""The program of a workspace, JupyterLab, marimo or a terminal: told who comes, keeping every save, ending without
losing any.

Runs in the sandbox by the Python of the workspace's environment: what it imports is there, and nothing of Stratal is.
"""
