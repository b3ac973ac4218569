"""The console: pages about what is in a project, for people with a browser.

Owns: sign-in and sign-out pages, templates, styles, a little JavaScript, and the vendored files with
their manifest (`static/vendor/manifest.json`). Everything shown is asked from the native API with the
viewer's own cookie (`native.Native`), as any user could: there is no private way back.
Refuses: to know any room, to change anything of a project, inline script or style, a build step.
"""
