"""Repositories: real git behind the platform's identity.

Owns: bare repositories on this machine's disk (named by id, never by what people typed), their rows, who
may push and what a protected branch allows, the quota of a project's repositories, and reading them for
pages. Git itself does the work, in processes of its own with a fixed environment (`git.py`); `traffic.py`
runs `git http-backend` for a door.
Refuses: hooks of anybody's, configuration from inside a repository, and a revision or path that was not checked.
"""
