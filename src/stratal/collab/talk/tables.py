"""Rows of talk: comments, notifications, webhooks and their deliveries."""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

from stratal.kernel.database import metadata

comments = Table(
    "comments",
    metadata,
    Column("id", Text, primary_key=True),  # sorts by time
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("on_kind", Text, nullable=False),
    Column("on_id", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("author_id", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("edited_at", BigInteger),
    Index("ix_comments_project_id_on", "project_id", "on_kind", "on_id", "id"),
)

notifications = Table(
    "notifications",
    metadata,
    Column("id", Text, primary_key=True),  # sorts by time
    Column("person_id", Text, ForeignKey("people.id"), nullable=False),
    Column("project_id", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),  # the event that it tells of
    Column("kind", Text, nullable=False),
    Column("words", Text, nullable=False),
    Column("on_kind", Text, nullable=False),
    Column("on_id", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("read_at", BigInteger),
    Column("mail", Text, nullable=False),  # "": none is wanted; due, sent, failed
    UniqueConstraint("person_id", "seq", "kind"),
    Index("ix_notifications_mail", "mail"),
    Index("ix_notifications_project_id", "project_id"),
)

# Where a person wants to be told by mail; no row: nowhere.
mailboxes = Table(
    "mailboxes",
    metadata,
    Column("person_id", Text, ForeignKey("people.id"), primary_key=True),
    Column("address", Text, nullable=False),
    Column("wanted", Integer, nullable=False),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("url", Text, nullable=False),
    Column("kinds", Text, nullable=False),
    Column("secret", Text, nullable=False),  # sealed under the master key
    Column("since", BigInteger, nullable=False),  # the newest event when it was made
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Index("ix_webhooks_project_id", "project_id"),
)

deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", Text, primary_key=True),  # sorts by time
    Column("webhook_id", Text, ForeignKey("webhooks.id"), nullable=False),
    Column("project_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("state", Text, nullable=False),  # due, delivered, dead
    Column("attempts", Integer, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("status", Integer),
    Column("error", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Index("ix_webhook_deliveries_state_due_at", "state", "due_at"),
    Index("ix_webhook_deliveries_webhook_id_id", "webhook_id", "id"),
)

# Up to which event everybody was told.
talk_cursors = Table(
    "talk_cursors",
    metadata,
    Column("name", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    PrimaryKeyConstraint("name"),
)
