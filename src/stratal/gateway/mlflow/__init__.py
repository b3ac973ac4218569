"""MLflow's REST, over our own rows: tracking, artifacts through the proxy, and the model registry.

The protocol is MLflow's protobuf services as JSON (``mlflow/protos/*.proto``); the unmodified client is the
specification. `door` finds the route, `wire` reads and writes its JSON, the other modules hold the
routes, one per family.
"""
