"""Signing in with an identity provider (OpenID Connect), whose word about people holds from then on.

Owns: which person here is which subject there, and what their groups there make them here. While somebody has access,
the provider is asked again every half a minute (their refresh token): groups that changed change their roles, and whoever
it refuses loses sessions, memberships and keys at once.
Refuses: to take a person who has an account here for somebody there because the names are alike; tokens that are not
signed for this very sign-in. The library joserfc is the extra ``stratal[oidc]``.
"""
