"""Names under which a checkpoint keeps a model's tensors, where they begin otherwise than the model's own. Pure.

Training code wraps a model, or calls a part of it otherwise: `visual.` is `model.visual.`, everything stands below `thinker.`. A mapping of
beginnings says so, and it is read both ways: of a name the longest beginning that fits counts. It must lose nothing: each name must come
back as it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from convsvc.errors import JobError

SHOWN = 5


@dataclass(frozen=True, slots=True)
class Spelling:
    """The model's beginnings of names, and the checkpoint's; `adapter` stands in the names of LoRA's factors there.

    >>> there = Spelling({"visual.": "model.visual.", "": "model.language_model."})
    >>> there.stored("visual.a"), there.stored("layers.0.b"), there.named("model.language_model.layers.0.b")
    ('model.visual.a', 'model.language_model.layers.0.b', 'layers.0.b')
    >>> Spelling({}, "default").stored("q_proj.lora_A.weight")
    'q_proj.lora_A.default.weight'
    """

    beginnings: Mapping[str, str]
    adapter: str | None = None

    def __bool__(self) -> bool:
        return bool(self.beginnings) or self.adapter is not None

    def stored(self, name: str) -> str:
        """What the checkpoint calls a tensor of the model."""
        name = _changed(name, self.beginnings.items())
        return _with_adapter(name, "", f".{self.adapter}") if self.adapter else name

    def named(self, stored: str) -> str:
        """What the model calls a tensor of the checkpoint."""
        name = _with_adapter(stored, f".{self.adapter}", "") if self.adapter else stored
        return _changed(name, [(new, old) for old, new in self.beginnings.items()])

    def check(self, names: Iterable[str], field: str) -> None:
        """Raises JobError for names of the model that would not come back, or that become one; and where none begins as is said."""
        names = list(names)
        if self.beginnings and not any(name.startswith(tuple(self.beginnings)) for name in names):
            raise JobError(
                f"{field}: no name begins with {', '.join(map(repr, self.beginnings))}",
                facts=[f"there is {name}" for name in names[:SHOWN]],
                do="see what the model's names begin with, and whether it is the model that was meant",
            )
        lost = [(name, there, back) for name in names if (back := self.named(there := self.stored(name))) != name]
        if lost:
            facts = [f"{name} becomes {there}, and that is read as {back}" for name, there, back in lost[:SHOWN]]
            raise JobError(
                f"{field}: {len(lost)} names would not be read as what they are",
                facts=facts,
                do=f"say also what begins so and stays as it is, for example {_itself(lost[0][0])}",
            )


def _itself(name: str) -> str:
    first = json.dumps(name.split(".", maxsplit=1)[0] + ".")
    return f"{first}: {first}"


def _changed(name: str, beginnings: Iterable[tuple[str, str]]) -> str:
    best = max((pair for pair in beginnings if name.startswith(pair[0])), key=lambda pair: len(pair[0]), default=("", ""))
    return best[1] + name[len(best[0]) :]


def _with_adapter(name: str, old: str, new: str) -> str:
    for side in (".lora_A", ".lora_B"):
        if name.endswith(f"{side}{old}.weight"):
            return name[: -len(f"{old}.weight")] + f"{new}.weight"
    return name
