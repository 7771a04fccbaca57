"""Alembic runs this; the connection comes from `Database`, never from a file."""

from alembic import context

from convsvc.service.store.models import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
