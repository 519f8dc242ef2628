"""The environment of alembic: one connection, and one transaction for each revision."""

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from alembic import context

#: Settings of the session: a step that cannot lock a table at once gives way to requests. Work on large tables takes long.
_OPTIONS = "-c lock_timeout=2s -c statement_timeout=0 -c idle_in_transaction_session_timeout=0"


def run() -> None:
    """Run the migrations that a command of alembic asked for."""
    arguments = {"options": _OPTIONS, "connect_timeout": 10, "application_name": "ocikit migrate"}
    engine = sa.create_engine(
        context.config.attributes["url"], poolclass=sa.NullPool, connect_args=arguments, hide_parameters=True
    )
    with engine.connect() as connection:
        context.configure(connection=connection, transaction_per_migration=True, on_version_apply=_comment)
        with context.begin_transaction():
            context.run_migrations()


def _comment(ctx: Any, step: Any, heads: Collection[Any], run_args: Any) -> None:  # noqa: ARG001 - called by alembic
    """Write which code works on the tables, for processes of an older release that start later."""
    for head in heads:
        revision = context.script.get_revision(head)
        usable_from = getattr(revision.module, "usable_from", head)
        ctx.connection.exec_driver_sql(f"COMMENT ON TABLE alembic_version IS 'usable by code from {usable_from}'")


if __name__ == "env_py":  # the name that alembic loads this file under
    run()
