"""Data (layer 2): what is stored and asked.

Owns: objects in buckets (`objects`), tables of the lake (`lake`), and queries over them (`queries`).
Every version of an object and every snapshot of a table has an id that lineage can name.
Refuses: to know which protocol a request came by, and to delete bytes that a recorded read refers to
unless their owner deletes them by name.
"""
