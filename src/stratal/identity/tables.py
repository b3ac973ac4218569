"""Rows of identity. No secret that opens a door is among them: secrets are derived from the master key."""

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, Table, Text, UniqueConstraint

from stratal.kernel.database import metadata

projects = Table(
    "projects",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("removing_at", BigInteger),
)

people = Table(
    "people",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("admin", Integer, nullable=False, default=0),
    Column("created_at", BigInteger, nullable=False),
    Column("password", Text),
    Column("totp", Text),
    Column("totp_step", BigInteger),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("role", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("principal_id", Text, nullable=False),
    Column("principal_name", Text, nullable=False),
    Column("workload", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("used_at", BigInteger),
    Index("ix_keys_project_id", "project_id"),
    Index("ix_keys_workload", "workload"),
)

login_links = Table(
    "login_links",
    metadata,
    Column("token_sha256", Text, primary_key=True),
    Column("person_id", Text, ForeignKey("people.id"), nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

members = Table(
    "members",
    metadata,
    Column("project_id", Text, ForeignKey("projects.id"), primary_key=True),
    Column("person_id", Text, ForeignKey("people.id"), primary_key=True),
    Column("role", Text, nullable=False),
    Column("added_at", BigInteger, nullable=False),
    Column("added_by", Text, nullable=False),
    Index("ix_members_person_id", "person_id"),
)

invitations = Table(
    "invitations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("token_sha256", Text, nullable=False, unique=True),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("role", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Index("ix_invitations_project_id", "project_id"),
)

device_logins = Table(
    "device_logins",
    metadata,
    Column("device_sha256", Text, primary_key=True),
    Column("user_code", Text, nullable=False, unique=True),
    Column("machine", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("person_id", Text, ForeignKey("people.id")),
    Column("project_id", Text, ForeignKey("projects.id")),
)

sessions = Table(
    "sessions",
    metadata,
    Column("token_sha256", Text, primary_key=True),
    Column("person_id", Text, ForeignKey("people.id"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("id", Text),
    Column("address", Text),
    Column("agent", Text),
    Column("seen_at", BigInteger),
)

# What one project lets another read. `object_id` is the thing's own id: what is made anew under its name is not it.
shares = Table(
    "shares",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("receiver_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("object_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    UniqueConstraint("receiver_id", "kind", "object_id"),
    Index("ix_shares_project_id", "project_id"),
    Index("ix_shares_object_id", "object_id"),
)

share_offers = Table(
    "share_offers",
    metadata,
    # Shares with a name that no project has: whoever shares must not learn that.
    Column("id", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("offered_to", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("object_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    UniqueConstraint("project_id", "offered_to", "kind", "object_id"),
    Index("ix_share_offers_object_id", "object_id"),
)

visits = Table(
    "visits",
    metadata,
    # A person in a browser at the own host name of a place (a workspace, an app): invited by a one-time ticket, then
    # known by a cookie.
    Column("id", Text, primary_key=True),
    Column("place_id", Text, nullable=False),
    Column("project", Text, nullable=False),
    # What the visit stands on: a console session (its token's hash) or a key. It ends with that.
    Column("session_sha256", Text),
    Column("key_id", Text),
    Column("ticket_sha256", Text, unique=True),  # None once spent
    Column("cookie_sha256", Text, unique=True),  # None until then
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Index("ix_visits_place_id", "place_id"),
)
