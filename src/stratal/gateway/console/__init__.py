"""The console's door, ``/``: brings the pages to the one address and the native API to the pages."""
