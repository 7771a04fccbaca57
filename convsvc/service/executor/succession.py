"""Taking a target over from an executor that the job store holds for dead, but which may still hold the target's lock.

A predecessor that only lost its lease notices, ends its tasks and gives the lock back. One that hangs is ended, by its supervisor or, on
this machine, here. Where neither can (another container, another machine) the lock is taken from it (`execute/staging/locks`): it looks
for its lock before each step that others would see, its workers for their fence before each write, so that it changes nothing if it wakes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from convsvc.errors import ConvsvcError, TargetBusy
from convsvc.execute.staging.holders import Holder, holder_from_dict
from convsvc.service.errors import LeaseLost
from convsvc.service.store.claims import Claim

T = TypeVar("T")

# A predecessor that has just lost its lease ends its tasks (five seconds) and gives the lock back. One that is hung does not.
GRACE_S = 8.0
# How long a process that was killed may take to die: one that waits for storage does not die before it answers.
DYING_S = 4.0
# After this long with a lock that cannot be taken the job fails, and says why.
PATIENCE_S = 600.0
PAUSE_S = 0.25


class Succession:
    """Waits for the predecessor of `claim` to leave the target, ends it, or takes the lock from it, and says so.

    `take_from` puts the holder's lock away and answers whether it was that holder's.
    """

    def __init__(
        self,
        claim: Claim,
        take_from: Callable[[Holder], bool],
        say: Callable[[str], None],
        waits: Callable[[str, str], None],
        grace_s: float,
    ) -> None:
        self._claim, self._take_from, self._say, self._waits = claim, take_from, say, waits
        self._began, self._act_at = time.monotonic(), time.monotonic() + grace_s
        self._told, self._ended = False, False
        self._refused = ""

    def meet(self, busy: TargetBusy) -> None:
        """One try found the target held. Raises TargetBusy if its holder is no predecessor, or stays whatever is done; LeaseLost."""
        holder = _predecessor(self._claim, busy)
        if holder is None:
            raise busy
        if time.monotonic() - self._began > PATIENCE_S:
            raise TargetBusy(busy.message, facts=[self._refused] if self._refused else [], do=busy.do, details=busy.details)
        who = f"process {holder.pid} on {holder.host}"
        if not self._told:
            self._say(f"{who}, which had the job before, still holds its target: waiting for it to end")
            self._waits("target-busy", f"{who}, which had the job before, still holds its target")
            self._told = True
        if time.monotonic() >= self._act_at:
            self._remove(holder, who)

    def _remove(self, holder: Holder, who: str) -> None:
        if not self._ended and holder.end():
            self._ended, self._act_at = True, time.monotonic() + DYING_S
            self._say(f"process {holder.pid} was silent and has been ended")
            return
        try:
            if self._take_from(holder):
                self._say(f"{who} is silent and out of reach: the target was taken from it, and it will change nothing if it wakes")
        except ConvsvcError as error:
            self._refused = f"its lock could not be taken: {error.message}"


def after_predecessor(
    claim: Claim,
    act: Callable[[], T],
    take_from: Callable[[Holder], bool],
    check: Callable[[], object],
    say: Callable[[str], None],
    *,
    grace_s: float = GRACE_S,
    waits: Callable[[str, str], None] = lambda reason, text: None,
) -> T:
    """What `act` answers, once the executor that had the job before has left its target, or was made to.

    `check` is called between tries and may raise. Raises LeaseLost if it is a later claim that has the target, TargetBusy if somebody
    else has it, or the lock of a predecessor that is out of reach cannot be taken. `waits` is told why the job does not go on.
    """
    succession = Succession(claim, take_from, say, waits, grace_s)
    while True:
        try:
            return act()
        except TargetBusy as busy:
            succession.meet(busy)
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
