"""The door to apps, at host names of their own: ``<label>.<domain for users' content>``, HTTP and WebSockets.

A browser comes in by a ticket, as to a workspace; other clients send a key with each request; a public app answers
anybody. What crosses over, and what does not, is in `stratal.gateway.hosts`.
"""
