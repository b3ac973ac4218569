"""The Hub door, ``/hub``: the registry's models as clients of a model hub know them.

A repository ``PROJECT/NAME`` is the registered model NAME; its one line ``main`` is the line of the model's
versions, a commit is a version, a tag is an alias. The address is what huggingface_hub takes as
``HF_ENDPOINT``, and that client's behaviour is the specification.
"""
