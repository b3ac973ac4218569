"""The ledger: what was read and written by whom.

Owns: lineage (which workload read and wrote which versions of what), recorded at the doors.
Refuses: to guess. An edge exists because a door saw the bytes go by, or it does not exist.
"""
