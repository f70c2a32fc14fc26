"""What the contract tests share."""

from __future__ import annotations

from tests.postgres import (
    blank_postgres_url,
    given_database,
    given_postgres_url,
    postgres,
    postgres_database,
    postgres_url,
)

__all__ = [
    "blank_postgres_url",
    "given_database",
    "given_postgres_url",
    "postgres",
    "postgres_database",
    "postgres_url",
]
