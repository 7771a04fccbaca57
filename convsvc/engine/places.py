"""Which machines a run's tasks shall not be given to again. Pure: told what happened, asked whom to avoid.

A machine that cannot see the shared storage, or runs another version, fails within milliseconds and so draws task after task to
itself. The first task that it gets shows it (`PlaceUnfit`): it counts as nobody's attempt, and the machine gets no more of the run.
"""

from __future__ import annotations

from collections import Counter

# A machine on which so many tasks failed one after the other, none in between succeeding, is given no new ones while there are others.
STREAK = 3


class Places:
    """What happened where, over all phases of a run."""

    def __init__(self) -> None:
        self._unfit: dict[str, str] = {}
        self._failed: dict[int, set[str]] = {}
        self._streaks = Counter[str]()
        self.succeeded_ever = False

    def succeeded(self, place: str) -> None:
        self._streaks.pop(place, None)
        self.succeeded_ever = True

    def failed(self, task: int, place: str) -> None:
        if place:
            self._failed.setdefault(task, set()).add(place)
            self._streaks[place] += 1

    def unfit(self, place: str, why: str) -> None:
        self._unfit[place] = why

    def avoid(self, task: int, there: frozenset[str]) -> frozenset[str]:
        """Of the places that are there, those that shall not get the task: never an unfit one, others as long as one is left."""
        never = there & self._unfit.keys()
        rather_not = {place for place in there if self._streaks[place] >= STREAK} | self._failed.get(task, set()) & there
        return never if there <= never | rather_not else frozenset(never | rather_not)

    def nowhere(self, there: frozenset[str]) -> dict[str, str]:
        """Why each place is unfit, if every one that is there is; empty otherwise."""
        return dict(self._unfit) if there and there <= self._unfit.keys() else {}
