"""Objects: named bytes in buckets, each content under a version id of its own.

Owns: buckets, object versions, multipart uploads, and the collection of bytes nobody can reach.
Others use `service.Objects` (and `multipart.Uploads`), `model` for the values they hand about.
Refuses: paths. A key is only ever compared and stored in a row; bytes lie under names made here.
"""
