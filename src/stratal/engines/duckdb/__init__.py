"""DuckDB behind the `QueryEngine` port: queries in worker processes, never in the server.

`engine.py` is the server's side: it starts workers on demand, watches their memory and clock, and ends
them. Everything else here runs in the worker: `worker.py` (the loop), `statement.py` (what a statement
names), `scan.py` (a snapshot's files as one relation), `render.py` (results as bytes) and `write.py`
(rows as new files of a table). Only `engine.py` and `frames.py` may be imported by the server.
"""
