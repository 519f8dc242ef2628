"""Migrations of the database, and the check of its version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ocikit.server.storage.cluster.database import connection_url

if TYPE_CHECKING:
    from alembic.config import Config


def migrate(url: str, revision: str = "head") -> None:
    """Bring the tables of a database to a revision.

    Args:
        url: URL of the database.
        revision: Revision; "head" is the newest.
    """
    from alembic import command  # noqa: PLC0415 - optional package

    command.upgrade(_config(url), revision)


def _config(url: str) -> Config:
    from alembic.config import Config  # noqa: PLC0415 - optional package

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["url"] = connection_url(url).replace("postgresql://", "postgresql+psycopg://", 1)
    return config
