"""What an executor says of itself and its engine; what a job waits for while an executor holds it, and how fast it is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("executors") as executors:
        executors.add_column(sa.Column("about", sa.JSON(), nullable=True))
        executors.add_column(sa.Column("left_at", sa.DateTime(timezone=True), nullable=True))
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("waits", sa.JSON(), nullable=True))
        jobs.add_column(sa.Column("pace", sa.JSON(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_column("pace")
        jobs.drop_column("waits")
    with op.batch_alter_table("executors") as executors:
        executors.drop_column("left_at")
        executors.drop_column("about")
