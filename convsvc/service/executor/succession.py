"""Taking a target over from an executor that the job store holds for dead, but which may still hold the target's lock.

The lock is never broken: what its holder does next, a rename or a removal, cannot be fenced, so while it is alive nobody else may be in the
staging directory. It is ended instead. On this machine by its successor, here; on another one by its supervisor, or the file system
takes its lock away when that whole machine is gone. Until then the successor waits. Workers hold no lock: they are fenced.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from convsvc.errors import TargetBusy
from convsvc.execute.staging.holders import Holder, holder_from_dict
from convsvc.service.errors import LeaseLost
from convsvc.service.store.claims import Claim

T = TypeVar("T")

# A predecessor that has just lost its lease ends its tasks (five seconds) and gives the lock back. One that is hung does not.
GRACE_S = 8.0
# After this long with a predecessor on another machine that nobody ends, the job fails and names it.
PATIENCE_S = 600.0
PAUSE_S = 0.25


def after_predecessor(
    claim: Claim,
    act: Callable[[], T],
    check: Callable[[], object],
    say: Callable[[str], None],
    *,
    grace_s: float = GRACE_S,
    waits: Callable[[str, str], None] = lambda reason, text: None,
) -> T:
    """What `act` answers, once the executor that had the job before has left its target.

    `check` is called between tries and may raise. Raises LeaseLost if it is a later claim that has the target, TargetBusy if somebody
    else has it, or a predecessor that stays. `waits` is told why the job does not go on.
    """
    began, told = time.monotonic(), False
    while True:
        try:
            return act()
        except TargetBusy as busy:
            holder = _predecessor(claim, busy)
            waited = time.monotonic() - began
            if holder is None or waited > PATIENCE_S:
                raise
            if not told:
                say(f"process {holder.pid} on {holder.host}, which had the job before, still holds its target: waiting for it to end")
                waits("target-busy", f"process {holder.pid} on {holder.host}, which had the job before, still holds its target")
                told = True
            if waited > grace_s and holder.end():
                say(f"process {holder.pid} was silent and has been ended")
        check()
        time.sleep(PAUSE_S)


def _predecessor(claim: Claim, busy: TargetBusy) -> Holder | None:
    """The holder, if it is an earlier run of the same job."""
    holder = holder_from_dict(busy.details)
    if holder.job != claim.job_id:
        return None
    if holder.claim > claim.fence:
        raise LeaseLost(f"job {claim.job_id} is held by process {holder.pid} on {holder.host} by now")
    return holder
