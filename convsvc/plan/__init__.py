"""Source layout + target layout -> plan. `make_plan(job)` is the only entry; it reads headers and writes nothing.

The package is callable, `convsvc.plan(job)`: the folder and the verb that users type have the same name, and Python sets the
attribute `plan` of `convsvc` to the folder as soon as anything in it is imported.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convsvc.plan.plan import Plan


class _PlanPackage(ModuleType):
    def __call__(self, job: Any) -> Plan:
        """The plan of a job (a dict, JSON or YAML text, or a Job)."""
        from convsvc.plan.planner import make_plan
        from convsvc.spec import parse_job

        return make_plan(parse_job(job))


sys.modules[__name__].__class__ = _PlanPackage
