"""What a user should know about a conversion that is none of its errors: a sentence, and its kind.

Notes are found wherever something is decided (a dialect that opens a source, the planner, a task that looks at values) and reach every
door: the command's stderr, `--json`, a service's job, the report beside the target.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

Kind = Literal["lost", "filled", "changed", "ignored", "carried", "advice"]
# In the order in which they are shown: what matters most comes first.
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence and its kind.

    lost      values of the source that are not in the target and do not follow from it; an error unless the job allows it
    filled    elements of the target that no source holds
    changed   values or words that are not those of the source (a cast, a configuration that follows the job)
    ignored   what is in the source and is no weight, or what the job does not want
    carried   what the target's framework has no place for, kept for the way back
    advice    what helps to use the result

    >>> str(Note("filled", "2 rows of zeros"))
    'filled: 2 rows of zeros'
    """

    kind: Kind
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"

    def as_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "text": self.text}


def note_from_dict(data: Any) -> Note:
    """The note whose `as_dict` is `data`. Raises ValueError for anything else."""
    if not isinstance(data, dict) or data.get("kind") not in KINDS or not isinstance(data.get("text"), str):
        raise ValueError(f"not a note: {data!r}")
    return Note(data["kind"], data["text"])


def sort_notes(notes: Iterable[Note]) -> tuple[Note, ...]:
    """Each note once, by kind in the order of KINDS; within a kind as they came."""
    return tuple(sorted(dict.fromkeys(notes), key=lambda note: KINDS.index(note.kind)))
