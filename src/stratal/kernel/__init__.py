"""The kernel: what every room stands on, and what knows no room.

Owns: ids, the clock, the tree of errors, names and paging, the database handle with its
group-committing writer, the outbox of events, and the port to which bytes are written (`BlobStore`).
Refuses: anything that knows what a job, a bucket or a model is.
"""
