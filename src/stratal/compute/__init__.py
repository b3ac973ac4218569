"""Compute (layer 1): work that runs, on this machine or on others.

Owns: workloads, jobs and their attempts, environments, code snapshots, and the port to the machines
that run them (`Engine`).
Refuses: to know what a job is *for* (training, a pipeline step, a replica), and to run user code in
the server's process.
"""
