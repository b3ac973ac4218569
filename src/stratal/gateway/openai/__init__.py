"""The OpenAI door, ``/v1/…``: the endpoints of the key's project as clients of OpenAI's API know them.

A model's name is an endpoint's. Language models answer chat and text completions, embedding models
embeddings; which an endpoint can do, its replica tells. The ``openai`` client is the specification.
"""
