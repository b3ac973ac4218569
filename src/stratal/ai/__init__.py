"""AI: models that were made, and answers given with them.

Owns: logged models and the registry of model versions (`models`), endpoints, and the record of every
prediction.
Refuses: to run a model in the server's process or to open a file of one: models are data here, and
only a replica in its sandbox ever loads one.
"""
