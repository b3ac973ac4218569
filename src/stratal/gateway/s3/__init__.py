"""The S3 door: what boto3, awscli, s3fs, pyarrow and DuckDB speak, over the objects room.

Owns: recognising and verifying signatures (`sigv4`, `sigv2`), the framing of signed bodies
(`chunked`), S3's headers, XML and error codes, and one module per family of operations.
Refuses: paths other than raw ones (a key may hold anything), and pretending: an operation or header
that is not served is answered with NotImplemented, never ignored.
"""
