"""Stores: the adapters behind the port to bytes (`stratal.kernel.blobs.BlobStore`).

Owns: how blobs lie on a medium, and that what was committed is there after a power cut.
Refuses: to know whose bytes they are or what they mean; that is written in the rooms' rows.
"""
