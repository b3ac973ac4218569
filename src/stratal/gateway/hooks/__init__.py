"""The door for deliveries of webhooks, ``POST /hooks/{project}/{pipeline}``: signed, no key. See `data.pipelines.hooks`.

Owns: taking the body within a limit and answering in the native dialect. Refuses everything that is not signed.
"""
