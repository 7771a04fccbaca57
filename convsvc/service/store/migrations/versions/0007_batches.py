"""Batches of jobs that were submitted as one, and jobs that come after others."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.String(26), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("submitted_by", sa.String(200), nullable=True),
        sa.Column("name", sa.String(200), nullable=True),
        sa.Column("idempotency_key", sa.String(255), nullable=True),
        sa.Column("request_hash", sa.String(64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
        sa.UniqueConstraint("tenant", "idempotency_key", name=op.f("uq_batches_idempotency_key")),
    )
    op.create_index("ix_batches_tenant", "batches", ["tenant", "id"])
    op.create_table(
        "dependencies",
        sa.Column("job_id", sa.String(26), nullable=False),
        sa.Column("after_id", sa.String(26), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_dependencies_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "after_id", name=op.f("pk_dependencies")),
    )
    op.create_index("ix_dependencies_after_id", "dependencies", ["after_id"])
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("batch_id", sa.String(26), nullable=True))
    op.create_index("ix_jobs_batch_id", "jobs", ["batch_id"])


def downgrade() -> None:
    op.drop_index("ix_jobs_batch_id", table_name="jobs")
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_column("batch_id")
    op.drop_index("ix_dependencies_after_id", table_name="dependencies")
    op.drop_table("dependencies")
    op.drop_index("ix_batches_tenant", table_name="batches")
    op.drop_table("batches")
