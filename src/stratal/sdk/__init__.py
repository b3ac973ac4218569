"""The SDK: an HTTP client of the native API, quick to import, that knows no room of the platform.

>>> from stratal.sdk import Client
>>> client = Client()  # STRATAL_URL and STRATAL_API_KEY, or the instance on this machine
"""

from stratal.sdk.client import ApiError, Client

__all__ = ["ApiError", "Client"]
