"""Browsers in which somebody logged in."""

_SQLITE = (
    """
    CREATE TABLE sessions (
        id TEXT NOT NULL PRIMARY KEY CHECK (id <> ''),
        secret_sha256 TEXT NOT NULL CHECK (length(secret_sha256) = 64),
        name TEXT NOT NULL CHECK (name <> ''),
        groups TEXT NOT NULL,
        vouched_by TEXT NOT NULL,
        created_at_ms INTEGER NOT NULL,
        expires_at_ms INTEGER NOT NULL
    )
    """,
    "CREATE INDEX sessions_by_end ON sessions (expires_at_ms)",
)

_POSTGRESQL = (
    """
    CREATE TABLE sessions (
        id TEXT NOT NULL PRIMARY KEY CHECK (id <> ''),
        secret_sha256 TEXT NOT NULL CHECK (length(secret_sha256) = 64),
        name TEXT NOT NULL CHECK (name <> ''),
        groups JSON NOT NULL,
        vouched_by TEXT NOT NULL,
        created_at_ms BIGINT NOT NULL,
        expires_at_ms BIGINT NOT NULL
    )
    """,
    "CREATE INDEX sessions_by_end ON sessions (expires_at_ms)",
)

STATEMENTS = {"sqlite": _SQLITE, "postgresql": _POSTGRESQL}
