"""Predictions: every answer of an endpoint, with an id that leads back to its row.

Owns: prediction ids (`ids`), the spool that rows are appended to before an answer leaves (`spool`),
recording and reading them (`service.Predictions`).
Refuses: to answer without having recorded, and to show a row that no longer fits its id as if it did.
"""
