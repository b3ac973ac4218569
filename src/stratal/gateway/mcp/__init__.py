"""The agents' door, ``/mcp``: the platform's work as tools of the Model Context Protocol, over streamable HTTP.

Every tool is a request to the native API in this process, with the caller's own key: so an agent may what its
key may, spends its project's budget, and is in the audit log like anyone. The door keeps no sessions and
nothing between requests. The ``mcp`` SDK is the extra ``stratal[agents]``, loaded with the first request.
"""
