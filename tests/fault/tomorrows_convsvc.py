"""The next version of convsvc: a job may say more, the tables have more, the version is another.

Run as a script: python tomorrows_convsvc.py MIGRATIONS ARGUMENTS_OF_CONVSVC, or with "executor-process" for the executor itself.
MIGRATIONS is a directory with today's migrations and tomorrow's.
"""

from __future__ import annotations

import sys
from pathlib import Path

VERSION, MIGRATION = "99.0", "0999"
ADDED = f"""
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = {MIGRATION!r}, DOWN, None, None


def upgrade():
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("of_tomorrow", sa.String(20), nullable=False, server_default="nothing"))
    with op.batch_alter_table("executors") as executors:
        executors.add_column(sa.Column("of_tomorrow", sa.JSON(), nullable=True))
    op.create_table("tomorrows", sa.Column("id", sa.Integer(), primary_key=True))
"""


def become_tomorrows(migrations: Path) -> None:
    """Before anything of the service is imported."""
    from pydantic import create_model

    import convsvc
    from convsvc.spec import options

    convsvc.__version__ = VERSION
    options.Options = create_model("Options", __base__=options.Options, of_tomorrow=(bool, False))  # type: ignore[misc]  # another class
    from convsvc.spec import job

    job.SPEC_VERSION += 1
    from convsvc.service.store import database

    database.MIGRATIONS = migrations


if __name__ == "__main__":
    become_tomorrows(Path(sys.argv.pop(1)))
    if sys.argv[1] == "executor-process":
        from convsvc.service.executor.executor import main as run

        sys.exit(run(sys.argv[2:]))
    from convsvc.cli.main import main

    sys.exit(main())
