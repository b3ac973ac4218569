"""The program of a replica: loads one model and answers on a unix socket.

It runs inside the sandbox by the Python of the *model's* environment, which does not contain
Stratal: so these modules import the standard library, what that environment holds, and each other
relatively. They also stay readable for older Pythons than the platform's own (3.9 and later).

The server imports `frames` and `arrays`'s table of datatypes only.
"""
