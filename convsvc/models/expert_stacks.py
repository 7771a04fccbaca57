"""Experts of a model that no family describes: found by their names and shapes, in whatever form they are kept. Pure.

Frameworks keep a layer's experts one by one, as models are published, or all in one tensor: output before input (transformers 5), input
before output (Qwen3-VL and Llama 4 in their own code), or that with experts and rows as one axis (what MindSpeed-MM shards by rows; its
`fused_linear_names`, `moe_expert`). All are rows over the same two logical tensors, so that one becomes another as any layout does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from convsvc.errors import SourceError
from convsvc.models.scope import Rows, Scope
from convsvc.tensors.declare import logical, row

KIND = "experts"
FC1 = logical("gate_up", "expert hidden glu ffn")
FC2 = logical("down", "expert ffn hidden")
FORMS: Mapping[str, Rows] = {
    "separate": (
        row("experts.{expert}.gate_proj.weight", FC1.at(glu="0"), "ffn hidden"),
        row("experts.{expert}.up_proj.weight", FC1.at(glu="1"), "ffn hidden"),
        row("experts.{expert}.down_proj.weight", FC2, "hidden ffn"),
    ),
    "output_first": (
        row("experts.gate_up_proj", FC1, "expert (glu ffn) hidden"),
        row("experts.down_proj", FC2, "expert hidden ffn"),
    ),
    "input_first": (
        row("experts.gate_up_proj", FC1, "expert hidden (glu ffn)"),
        row("experts.down_proj", FC2, "expert ffn hidden"),
    ),
    "input_first_flat": (
        row("experts.gate_up_proj", FC1, "(expert hidden) (glu ffn)"),
        row("experts.down_proj", FC2, "(expert ffn) hidden"),
    ),
}
SEPARATE = "separate"
SHOWN = 5

Shapes = Mapping[str, tuple[int, ...]]

_NAME = re.compile(r"(?P<folder>(?:.*\.)?)experts\.(?:(?P<number>\d+)\.(?:gate|up|down)_proj\.weight|(?:gate_up|down)_proj)")


def form_of(folder: str, forms: Mapping[str, str]) -> str | None:
    """The form said for names that begin so: that of the longest beginning that fits.

    >>> form_of("mtp.layers.0.mlp.", {"": "input_first", "mtp.": "separate"})
    'separate'
    """
    fitting = [beginning for beginning in forms if folder.startswith(beginning)]
    return forms[max(fitting, key=len)] if fitting else None


def expert_scopes(shapes: Shapes, forms: Mapping[str, str]) -> Iterator[Scope]:
    """A scope for the experts of each layer for which a form is said. Raises SourceError where they are kept in another."""
    folders = dict.fromkeys([match["folder"] for name in shapes if (match := _NAME.fullmatch(name))]) if forms else {}
    counts = _counted(shapes) if folders else {}
    wrong = []
    for folder in folders:
        form = form_of(folder, forms)
        if form is None:
            continue
        sizes = _sizes(folder, shapes, form, counts.get(folder, 0))
        if sizes is None:
            wrong.append(f"{folder}experts: {form} is said; {_found(folder, shapes, counts.get(folder, 0))}")
            continue
        yield Scope(KIND, f"{folder}experts.", folder, FORMS[form], sizes)
    if wrong:
        raise SourceError(f"{len(wrong)} layers have no experts as they should be", facts=wrong[:SHOWN], do="see source.experts")


def rows_in(scope: Scope, forms: Mapping[str, str]) -> Rows:
    """A scope's rows where experts are kept in these forms; what is not said stays as it is."""
    form = form_of(scope.prefix, forms) if scope.kind == KIND else None
    return scope.rows if form is None else FORMS[form]


def _counted(shapes: Shapes) -> dict[str, int]:
    """How many experts are there one by one, by folder."""
    counts: dict[str, int] = {}
    for name in shapes:
        match = _NAME.fullmatch(name)
        if match and match["number"]:
            counts[match["folder"]] = max(counts.get(match["folder"], 0), int(match["number"]) + 1)
    return counts


def _sizes(folder: str, shapes: Shapes, form: str, count: int) -> dict[str, int] | None:
    """The axes' sizes; None where the names or the shapes are not those of the form. That all are there and fit, matching proves."""
    if (form == SEPARATE) != bool(count):
        return None
    first, second = ("experts.0.gate_proj.weight", "experts.0.down_proj.weight") if count else ("experts.gate_up_proj", "experts.down_proj")
    up, down = shapes.get(folder + first, ()), shapes.get(folder + second, ())
    if len(up) != len(down) or len(up) != (2 if form in (SEPARATE, "input_first_flat") else 3) or not all((*up, *down)):
        return None
    if form == SEPARATE:
        return _of(count, up[1], up[0]) if down == up[::-1] else None
    if form == "output_first":
        return _of(up[0], up[2], down[2]) if down == (up[0], up[2], up[1] // 2) and up[1] % 2 == 0 else None
    if form == "input_first":
        return _of(up[0], up[1], down[1]) if down == (up[0], up[2] // 2, up[1]) and up[2] % 2 == 0 else None
    hidden, ffn = down[1], up[1] // 2
    number = up[0] // hidden
    return _of(number, hidden, ffn) if (up, down) == ((number * hidden, 2 * ffn), (number * ffn, hidden)) else None


def _of(expert: int, hidden: int, ffn: int) -> dict[str, int]:
    return {"expert": expert, "hidden": hidden, "glu": 2, "ffn": ffn}


def _found(folder: str, shapes: Shapes, count: int) -> str:
    if count:
        return f"there are {count}, one by one, the first with {list(shapes.get(folder + 'experts.0.gate_proj.weight', ()))}"
    up, down = (list(shapes.get(f"{folder}experts.{name}", ())) for name in ("gate_up_proj", "down_proj"))
    return f"gate_up_proj is {up}, down_proj {down}"
