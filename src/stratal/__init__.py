"""Stratal: one system that stores the data, runs the work and answers the requests.

Importing this package is cheap; the rooms inside are described in ARCHITECTURE.md.
"""

__version__ = "0.1.0"
