"""Rows of federation. Refresh tokens are sealed under the master key."""

from sqlalchemy import BigInteger, Column, ForeignKey, PrimaryKeyConstraint, Table, Text

from stratal.kernel.database import metadata

federated = Table(
    "federated_people",
    metadata,
    Column("issuer", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("person_id", Text, ForeignKey("people.id"), nullable=False, unique=True),
    Column("refresh_token", Text, nullable=False),
    Column("checked_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    PrimaryKeyConstraint("issuer", "subject"),
)

# Sign-ins that were begun and not finished.
federated_logins = Table(
    "federated_logins",
    metadata,
    Column("state_sha256", Text, primary_key=True),
    Column("browser_sha256", Text, nullable=False),
    Column("nonce", Text, nullable=False),
    Column("verifier", Text, nullable=False),
    Column("redirect_uri", Text, nullable=False),
    Column("next", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)
"""One-time: the row goes with the answer."""
