"""Running functions: the program of a function's replica (`replica`), and the server's end of its socket (`link`).

Owns: the adapter of `stratal.ai.functions.runtime.Program`.
Refuses: knowing what a function is for, and running anything of it in the server: `replica` does that, in the
sandbox, by the Python of the function's own environment.
"""
