"""The catalogue of pre-trained models: what each does, where it comes from, under which licence, how well, and its limits.

Owns: the list of tasks and entries (`entries`), and pulling one into a project's registry (`service`). A
pulled model is a version like any other: its files are pinned, it is deployed, explained and priced the same.
Refuses: entries whose weights are not pinned by checksum, and numbers that we did not measure.
"""
