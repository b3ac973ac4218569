"""Model runtimes: which models can be served, and how one is loaded in a replica.

Owns: the adapters of `stratal.ai.endpoints.runtime.Runtime` (scikit-learn; MLflow's pyfunc for the
rest), the program that runs in a replica (`replica/`), and the server's end of its socket (`link`).
Refuses: loading a model in the server's process. Nothing here unpickles anything outside a replica.
"""
