"""The program of a function's replica: loads what somebody wrote, and answers on a unix socket.

It runs inside the sandbox by the Python of the *function's* environment, which does not contain Stratal: so
these modules import the standard library and each other relatively, and stay readable for older Pythons than
the platform's own (3.9 and later).

    server ──unix socket──▶ supervisor ──socket pairs──▶ workers

The supervisor never imports what somebody wrote. It hands calls to workers, ends a call that takes too long by
ending its worker, and collects what each call writes. The server imports `frames` only.
"""
