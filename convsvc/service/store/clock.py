"""What time it is, asked of the database.

Leases are compared by several processes on several machines; whoever asks his own machine instead gives leases that are too short, or
takes jobs that are still held, as soon as its clock is wrong. SQLite is on one machine, and answers with that machine's clock.
"""

from __future__ import annotations

from datetime import datetime, timezone

from sqlalchemy import func, select
from sqlalchemy.orm import Session

_KEY = "convsvc.now"


def now_of(session: Session) -> datetime:
    """The database's time, in UTC, as it was when this transaction first asked."""
    if _KEY not in session.info:
        with session.no_autoflush:  # half a change is not written because somebody asks for the time
            session.info[_KEY] = _ask(session)
    found: datetime = session.info[_KEY]
    return found


def _ask(session: Session) -> datetime:
    if session.get_bind().dialect.name == "postgresql":
        # Not now(), which is when the transaction began: it may have waited for a lock since.
        asked: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
        return asked.astimezone(timezone.utc)
    text: str = session.execute(select(func.strftime("%Y-%m-%dT%H:%M:%f", "now"))).scalar_one()
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%f").replace(tzinfo=timezone.utc)
