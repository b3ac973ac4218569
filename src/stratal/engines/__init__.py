"""The engines: what runs processes (`local`), and what reads files for SQL.

Owns: the adapters of the ports that lower rooms declare (`stratal.compute.engine.Engine` and the like).
Refuses: deciding. What may run, as whom, with what and for how long is decided before it comes here;
an engine reports what happened and holds no truth of its own.

Importing this package imports nothing: parts of it run in bare interpreters of a few megabytes.
"""
