"""Which version of the job's schema a job was submitted in; model types as long as the schema allows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("spec_version", sa.Integer(), nullable=False, server_default="1"))
        jobs.alter_column("model_type", type_=sa.String(200), existing_type=sa.String(100))


def downgrade() -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_column("spec_version")
        jobs.alter_column("model_type", type_=sa.String(100), existing_type=sa.String(200))
