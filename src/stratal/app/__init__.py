"""The app: settings and wiring, and the platform's life (up, down, status).

Owns: reading the environment, choosing adapters, the order of doors, the schema's migrations.
Refuses: rules of any room. This is the only room that names concrete adapters.
"""
