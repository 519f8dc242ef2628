"""The environment of alembic: one connection, and one transaction for each revision."""

import sqlalchemy as sa
from alembic import context


def run() -> None:
    """Run the migrations that a command of alembic asked for."""
    engine = sa.create_engine(context.config.attributes["url"], poolclass=sa.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()


if __name__ == "env_py":  # the name that alembic loads this file under
    run()
