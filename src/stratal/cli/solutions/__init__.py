"""``stratal solutions``: ready solutions, run through public doors only and held against their gates."""

from stratal.cli.solutions.command import solutions

__all__ = ["solutions"]
