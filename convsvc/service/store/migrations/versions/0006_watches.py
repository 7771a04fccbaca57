"""Watches: directories of training runs, what was seen in them, and which iterations were given to which jobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "watches",
        sa.Column("id", sa.String(26), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("submitted_by", sa.String(200), nullable=True),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("spec_version", sa.Integer(), nullable=False),
        sa.Column("request_hash", sa.String(64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("due_at", TIME, nullable=False),
        sa.Column("looked_at", TIME, nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("executor", sa.String(200), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("lease_until", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_watches")),
        sa.UniqueConstraint("tenant", "request_hash", name=op.f("uq_watches_request_hash")),
    )
    op.create_index("ix_watches_due_at", "watches", ["due_at"])
    op.create_table(
        "sightings",
        sa.Column("watch_id", sa.String(26), nullable=False),
        sa.Column("iteration", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("signature", sa.String(64), nullable=False),
        sa.Column("since", TIME, nullable=False),
        sa.Column("looked_at", TIME, nullable=False),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(["watch_id"], ["watches.id"], name=op.f("fk_sightings_watch_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("watch_id", "iteration", name=op.f("pk_sightings")),
    )
    op.create_table(
        "taken_iterations",
        sa.Column("watch_id", sa.String(26), nullable=False),
        sa.Column("iteration", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(26), nullable=False),
        sa.Column("target_path", sa.Text(), nullable=False),
        sa.Column("plan", sa.String(64), nullable=False),
        sa.Column("taken_at", TIME, nullable=False),
        sa.Column("removed_at", TIME, nullable=True),
        sa.Column("kept_for", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["watch_id"], ["watches.id"], name=op.f("fk_taken_iterations_watch_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("watch_id", "iteration", "content", name=op.f("pk_taken_iterations")),
    )
    op.create_index("ix_taken_iterations_job_id", "taken_iterations", ["job_id"])


def downgrade() -> None:
    op.drop_index("ix_taken_iterations_job_id", table_name="taken_iterations")
    op.drop_table("taken_iterations")
    op.drop_table("sightings")
    op.drop_index("ix_watches_due_at", table_name="watches")
    op.drop_table("watches")
