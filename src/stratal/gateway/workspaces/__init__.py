"""The door to workspaces, at host names of their own: ``<label>.<domain for users' content>``.

What answers there is users' code, so nothing of the platform's own address is worth anything here, and nothing that
is worth something there is sent on: no console cookie, no key. A browser is let in by a one-time ticket that becomes
a cookie of this one host, and each request says anew, in headers that no page can set, which page made it.
"""
