"""The Iceberg door, ``/iceberg/v1``: the catalogue as Iceberg's REST protocol has it.

The specification is https://github.com/apache/iceberg/blob/main/open-api/rest-catalog-open-api.yaml, and
pyiceberg's behaviour where that leaves room. A table's metadata passes through as bytes.
"""
