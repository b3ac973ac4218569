"""Features served online: of each key the newest row of a table, in rows that are looked up in a millisecond.

Owns: published views (`tables`), publishing one from a snapshot of its table, and looking keys up (`service`). The
definition is that of the offline join: the same columns, keys and moment.
Refuses: to compute features when they are asked for. What is served is what was published, at the snapshot that it says.
"""
