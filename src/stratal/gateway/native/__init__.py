"""The native door, ``/api/v1``: what no other protocol covers, for the console, the CLI and the SDK.

One module per noun, each with ``router(services…) -> APIRouter``; described by OpenAPI at
``/api/v1/openapi.json``.
"""
