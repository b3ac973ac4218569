"""Queries: SQL over the lake, answered by an engine outside the server.

Owns: the port `QueryEngine` (engine.py), planning (which files a statement may read), authorising and
attributing each query, the log of queries, and writing rows into tables (loading.py).
Refuses: to run SQL in this process, and to let SQL name anything but tables.
"""
