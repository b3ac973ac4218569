"""Rows of functions and apps, their immutable revisions, and their invocations."""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from stratal.kernel.database import metadata

functions = Table(
    "functions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("kind", Text, nullable=False, server_default="function"),  # or app
    Column("name", Text, nullable=False),
    Column("label", Text),  # of an app's host name, never given again
    Column("active_revision", Integer),  # the seq of the revision that answers
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    # A removed function's row stays: what it read and wrote is still explained.
    Column("removed_at", BigInteger),
    Index("uq_functions_label", "label", unique=True),
    Index(
        "uq_functions_live_name",
        "project_id",
        "kind",
        "name",
        unique=True,
        sqlite_where=text("removed_at IS NULL"),
        postgresql_where=text("removed_at IS NULL"),
    ),
)

function_revisions = Table(
    "function_revisions",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("function_id", Text, ForeignKey("functions.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("target", Text, nullable=False),  # app.py:handler
    Column("snapshot_id", Text, nullable=False),
    Column("cwd", Text, nullable=False),  # the folder of the snapshot that the target lies in
    Column("source", Text, nullable=False),  # JSON: where the code came from
    Column("requirements", Text, nullable=False),
    Column("environment_id", Text),
    Column("env", Text, nullable=False),  # JSON {name: value}
    Column("wishes", Text, nullable=False),  # JSON: model.Wishes
    Column("key_id", Text, nullable=False),  # the credential of its replicas
    Column("workload", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("failure", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("creator_name", Text, nullable=False),
    UniqueConstraint("function_id", "number"),
    sqlite_autoincrement=True,
)

function_invocations = Table(
    "function_invocations",
    metadata,
    Column("id", Text, primary_key=True),  # sorts by time
    Column("function_id", Text, ForeignKey("functions.id"), nullable=False),
    Column("project_id", Text, nullable=False),
    Column("revision", Integer),  # the seq of the revision that ran it last
    Column("trigger", Text, nullable=False),  # http, async …
    Column("dedupe", Text),  # what must not be run twice for this function
    Column("state", Text, nullable=False),
    Column("caller", Text),  # None: anybody, at a public function
    Column("content_type", Text, nullable=False),
    Column("query", Text, nullable=False),
    Column("headers", Text, nullable=False),  # JSON
    Column(
        "depth", Integer, nullable=False, server_default="0"
    ),  # of a chain of functions that trigger one another
    Column("input", LargeBinary),  # of one that is run later
    Column("result", LargeBinary),  # of one that was run later
    Column("result_type", Text, nullable=False),
    Column("status", Integer),
    Column("error", Text),  # JSON {code, type, message}
    Column("log", LargeBinary, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("owner", Text),  # the server that runs it
    Column("waits_until", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    UniqueConstraint("function_id", "dedupe"),
    Index("ix_function_invocations_function_id_state", "function_id", "state", "id"),
    Index("ix_function_invocations_state", "state", "waits_until"),
)

function_sources = Table(
    "function_sources",
    metadata,
    # What calls a function besides people: of the revision that answers.
    Column("function_id", Text, ForeignKey("functions.id"), primary_key=True),
    Column("cron", Text, nullable=False),
    Column("zone", Text, nullable=False),
    Column("looked_at", BigInteger, nullable=False),  # up to here, times that came were seen to
    Column("triggers", Text, nullable=False),  # JSON [s3:bucket/prefix]
    Column("since", BigInteger, nullable=False),  # events up to this one are not its
)

function_dues = Table(
    "function_dues",
    metadata,
    # A time at which a function was called by its schedule: never twice.
    Column("function_id", Text, ForeignKey("functions.id"), primary_key=True),
    Column("due", BigInteger, primary_key=True),
)

function_cursors = Table(
    "function_cursors",
    metadata,
    Column("name", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False),  # events up to this one were seen to
)
