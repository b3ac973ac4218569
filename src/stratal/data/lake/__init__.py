"""The lake: Iceberg tables, whose catalogue is ours and whose files lie in the project's lake bucket.

Owns: namespaces, tables and their snapshots; the compare-and-swap that is a commit; which object version is
which file of which snapshot. Others use `Lake` (lake.py) and the values of `model.py`.
Refuses: to read or write rows of tables (engines do), and locations outside the project.
"""
