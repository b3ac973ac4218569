"""Identity: who is asking, and what they may do.

Owns: people, projects and their members, API keys (people's, services' and workloads'), console
sessions, the master key, and the one table of permissions.
Refuses: to know any protocol: doors bring a key's id and a proof, and get a `Principal`.
"""
