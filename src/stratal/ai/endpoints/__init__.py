"""Endpoints: model versions that answer requests.

Owns: endpoints and their immutable revisions (`service.Endpoints`), what keeps a revision's replica
alive, asleep or awake (`keeping`), the path of a request (`serving.Serving`), MLflow's scoring shapes
(`scoring`), tensors (`tensors`), and the port to model libraries (`runtime`).
Refuses: loading a model in the server's process, and answering from files whose checksums are not the
pinned ones.
"""
