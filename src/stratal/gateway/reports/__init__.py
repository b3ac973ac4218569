"""The door of public links: ``/r/<token>`` shows one report to whoever has the address, and nothing else.

Owns the page around a published report and its headers. Refuses every other method, and any script.
"""
