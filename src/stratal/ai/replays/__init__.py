"""Replays: earlier work done again from the very code, data and environment, and what came of it compared.

Owns: what was asked to be repeated, how far that is, and the report (`tables`, `records`); looking at the inputs (`inputs`),
comparing (`comparing`), and bringing a replay from its asking to its end (`conductor`).
Refuses: to change anything but its own rows and runs. A replay is held to the past (`ledger.past`): it reads what was read
then, and what it writes is seen by itself alone.
"""
