"""Retrieval: documents of a bucket, cut into passages, found by meaning and by words, answered from with citations.

Owns: what an index is (`service.Indexes`): which documents, the table of their passages in the lake, the job that
builds it, and from which confidence on a question is taken to be answered by them.
Refuses: to keep passages anywhere but in the lake, to embed or read a document in the server's process (a job and
endpoints do), and to answer from anything that is not in the index.

`service.Indexes` makes and looks, `searching.Search` finds and answers.
"""
