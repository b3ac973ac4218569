"""The git door: ``/git/<project>/<repository>.git`` for the real git client, over smart HTTP.

Knows: three addresses and nothing else (https://git-scm.com/docs/http-protocol), HTTP basic or bearer, and
that git's client shows people what is sent as plain text.
Refuses: the dumb protocol, and names that need to be decoded.
"""
