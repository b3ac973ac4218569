"""The Open Inference door, ``/v2/…``: REST, with the binary tensor extension.

The protocol is KServe's v2 (https://github.com/kserve/open-inference-protocol); where that leaves
room, ``tritonclient.http`` is the specification. The models that it names are the endpoints of the
key's project; a version is that of the registered model which the endpoint serves.
"""
