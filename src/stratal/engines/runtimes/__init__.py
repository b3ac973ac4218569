"""Model runtimes: which models can be served, and how one is loaded in a replica.

Owns: the adapter of `stratal.ai.endpoints.runtime.Runtime` (scikit-learn, ONNX; MLflow's pyfunc for the
rest), the program that runs in a replica (`replica/`), the server's end of its socket (`link`), and the
programs that jobs convert models with (`conversion/`).
Refuses: loading a model in the server's process. Nothing here unpickles anything outside a replica.
"""
