"""The SDK: an HTTP client of the native API, quick to import, that knows no room of the platform.

>>> from stratal.sdk import Client
>>> client = Client()  # STRATAL_URL and STRATAL_API_KEY, or the instance on this machine

The client is imported when it is first used: `pipelines`, which travels into environments that have nothing but
Python, lies below this package too.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stratal.sdk.client import ApiError, Client

__all__ = ["ApiError", "Client"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'stratal.sdk' has no attribute {name!r}")
    from stratal.sdk import client

    return getattr(client, name)
