"""Explaining: from a prediction back to the bytes and the code that made it.

Owns nothing: it reads what doors recorded, and hashes the stored bytes again.
Refuses: to guess. What cannot be shown is *unproven*, and what else a job could have read is named.
"""
