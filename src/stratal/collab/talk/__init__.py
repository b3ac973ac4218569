"""Talking about work: comments with mentions, what happened lately, and who is told of it.

Owns: comments on the project's things, the notifications of people (in the console, by mail), webhooks with what was
sent to them. Reads the outbox for what happened; follows it once, with a cursor that moves in the transaction that
writes who is to be told, so that nobody is told twice or never.
Refuses: requests of webhooks to anything but public addresses (unless an admin named the network), whatever a name
resolves to at that moment; redirects; text as anything but text.
"""
