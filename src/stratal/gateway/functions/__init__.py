"""The functions door: ``POST /f/<project>/<name>`` calls one, ``…/invocations/<id>`` tells what came of a later call.

It is on the console's origin, so what a function answers is sandboxed by the browser, sets no cookies, and no
cookie ever opens it: a key does, or nothing at all where the function is public.
"""
