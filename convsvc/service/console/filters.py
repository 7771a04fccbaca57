"""Which jobs a list has: kept in the page's address, so that a list can be sent to a colleague."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from convsvc.service.errors import WrongValue
from convsvc.service.routes.context import WHOLE_ID
from convsvc.service.routes.jobs import LABEL
from convsvc.service.store.states import JOB_STATES
from convsvc.service.store.wanted import Wanted

TEXTS = {"name": 200, "model_type": 200, "source": 4096, "target": 4096, "label": 200, "tenant": 64}


@dataclass(frozen=True, slots=True)
class Filters:
    """As they stand in the address; an empty one is none. `label` is NAME=VALUE, or NAME for any value."""

    state: str = ""
    name: str = ""
    model_type: str = ""
    source: str = ""
    target: str = ""
    label: str = ""
    tenant: str = ""
    cursor: str = ""

    def wanted(self) -> Wanted:
        name, equals, value = self.label.partition("=")
        labels = {name: value if equals else None} if name else {}
        return Wanted(None, None, self.name or None, self.model_type or None, self.source or None, self.target or None, labels)

    def query(self, **changed: str | None) -> str:
        """The address's query with some of it changed; without a cursor unless it is among that.

        >>> Filters(state="failed", cursor="x").query(name="a b")
        '?state=failed&name=a+b'
        """
        values = {name: getattr(self, name) for name in self.__slots__ if name != "cursor"} | changed
        said = urlencode({name: value for name, value in values.items() if value})
        return f"?{said}" if said else "?"

    @property
    def is_any(self) -> bool:
        return any(getattr(self, name) for name in TEXTS)


def filters_of(query: Mapping[str, str]) -> Filters:
    """The filters in an address. Raises WrongValue for one that there is not: a list that ignores it would look like another."""
    faults = [f"{name}: there is no such filter" for name in query if name not in Filters.__slots__]
    given = {name: query.get(name, "").strip() for name in Filters.__slots__}
    faults += [f"{name}: at most {most} characters, without NUL" for name, most in TEXTS.items() if _is_odd(given[name], most)]
    if given["state"] and given["state"] not in JOB_STATES:
        faults.append(f"state: one of {', '.join(JOB_STATES)}")
    if given["label"] and not re.fullmatch(LABEL, given["label"]):
        faults.append("label: NAME=VALUE, or NAME for any value")
    if given["cursor"] and not re.fullmatch(WHOLE_ID, given["cursor"]):
        faults.append("cursor: is no page's")
    if faults:
        raise WrongValue("the list cannot be filtered so", facts=faults)
    return Filters(**given)


def _is_odd(text: str, most: int) -> bool:
    return len(text) > most or "\x00" in text or any("\ud800" <= letter <= "\udfff" for letter in text)
