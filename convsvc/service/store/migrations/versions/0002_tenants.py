"""tenants, tokens, audit rows, webhook deliveries, attempts at tasks; jobs have a tenant and a priority"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _widen_jobs()
    _create_attempts()
    _create_tenants()
    _create_tokens()
    _create_audit()
    _create_deliveries()
    _create_tallies()
    _create_chores()


def downgrade() -> None:
    op.drop_table("chores")
    op.drop_table("tallies")
    op.drop_index("ix_deliveries_job_id", table_name="deliveries")
    op.drop_index("ix_deliveries_state", table_name="deliveries")
    op.drop_table("deliveries")
    op.drop_index("ix_audit_at", table_name="audit")
    op.drop_index("ix_attempts_open", table_name="attempts")
    for table in ("audit", "tokens", "tenants", "attempts"):
        op.drop_table(table)
    with op.batch_alter_table("logs") as logs:
        logs.drop_column("attempt")
    for index in ("ended", "started", "queue", "state_tenant"):
        op.drop_index(f"ix_jobs_{index}", table_name="jobs")
    op.drop_index("ix_jobs_tenant", table_name="jobs")
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_constraint(op.f("uq_jobs_idempotency_key"), type_="unique")
        for column in ("queued_at", "priority", "submitted_by", "tenant"):
            jobs.drop_column(column)
        jobs.create_unique_constraint(op.f("uq_jobs_idempotency_key"), ["idempotency_key"])


def _widen_jobs() -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("tenant", sa.String(64), nullable=False, server_default="default"))
        jobs.add_column(sa.Column("submitted_by", sa.String(200), nullable=True))
        jobs.add_column(sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
        jobs.add_column(sa.Column("queued_at", TIME, nullable=True))
        jobs.drop_constraint(op.f("uq_jobs_idempotency_key"), type_="unique")
        jobs.create_unique_constraint(op.f("uq_jobs_idempotency_key"), ["tenant", "idempotency_key"])
    op.execute("UPDATE jobs SET queued_at = created_at")
    op.create_index("ix_jobs_tenant", "jobs", ["tenant", "id"])
    op.create_index("ix_jobs_state_tenant", "jobs", ["state", "tenant"])
    _create_partial_index("ix_jobs_queue", "jobs", ["tenant", "priority", "queued_at", "id"], "state = 'queued'")
    op.create_index("ix_jobs_started", "jobs", ["started_at"])
    op.create_index("ix_jobs_ended", "jobs", ["ended_at"])
    with op.batch_alter_table("logs") as logs:
        logs.add_column(sa.Column("attempt", sa.Integer(), nullable=True))


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.String(26), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("task", sa.Integer(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(200), nullable=True),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("heartbeat_at", TIME, nullable=False),
        sa.Column("lease_until", TIME, nullable=False),
        sa.Column("ended_at", TIME, nullable=True),
        sa.Column("outcome", sa.String(16), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_attempts_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "run", "task", "fence", "attempt", name=op.f("pk_attempts")),
    )
    _create_partial_index("ix_attempts_open", "attempts", ["job_id"], "ended_at IS NULL")


def _create_tenants() -> None:
    op.create_table(
        "tenants",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("roots", sa.JSON(), nullable=False),
        sa.Column("weight", sa.Float(), nullable=False, server_default="1.0"),
        sa.Column("most_running_jobs", sa.Integer(), nullable=True),
        sa.Column("most_queued_jobs", sa.Integer(), nullable=True),
        sa.Column("most_active_bytes", sa.BigInteger(), nullable=True),
        sa.Column("requests_per_minute", sa.Integer(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_tenants")),
    )


def _create_tokens() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(26), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.Column("last_used_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"], name=op.f("fk_tokens_tenant"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("digest", name=op.f("uq_tokens_digest")),
    )


def _create_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", SERIAL, autoincrement=True, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("job_id", sa.String(26), nullable=True),
        sa.Column("address", sa.String(64), nullable=True),
        sa.Column("outcome", sa.String(64), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index("ix_audit_at", "audit", ["at"])


def _create_deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("id", SERIAL, autoincrement=True, nullable=False),
        sa.Column("job_id", sa.String(26), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", TIME, nullable=False),
        sa.Column("delivered_at", TIME, nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_deliveries_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
    )
    op.create_index("ix_deliveries_state", "deliveries", ["state", "next_at"])
    op.create_index("ix_deliveries_job_id", "deliveries", ["job_id"])


def _create_tallies() -> None:
    op.create_table(
        "tallies",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("label", sa.String(64), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", "tenant", "label", name=op.f("pk_tallies")),
    )


def _create_chores() -> None:
    op.create_table(
        "chores",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("due_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_chores")),
    )


def _create_partial_index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
