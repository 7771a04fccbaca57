"""The toy framework's names for the logical tensors, which file each lies in, and which way round. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from convsvc.blocks.embeddings import EMBEDDING, FINAL_NORM, OUTPUT
from convsvc.blocks.glu import FC1, FC1_BIAS, FC2, FC2_BIAS
from convsvc.blocks.gqa import K_NORM, PROJ, PROJ_BIAS, Q_NORM, QKV, QKV_BIAS
from convsvc.blocks.norms import INPUT_NORM, PRE_MLP_NORM
from convsvc.dialects.layout import Entry, Layout
from convsvc.dialects.templates import Templates, rows_that_fit
from convsvc.models.model import Model
from convsvc.models.scope import Rows, Scope
from convsvc.tensors.declare import row

START = (row("words_in", EMBEDDING, "vocab hidden"),)
END = (
    row("last_norm", FINAL_NORM, "hidden"),
    row("words_out", OUTPUT,     "vocab hidden"),
)  # fmt: skip
SMALL = (
    row("norm_1",      INPUT_NORM,   "hidden"),
    row("norm_2",      PRE_MLP_NORM, "hidden"),
    row("look_norm_q", Q_NORM,       "head_dim"),
    row("look_norm_k", K_NORM,       "head_dim"),
    row("look_b",      QKV_BIAS,     "(slot group head_dim)"),
    row("look_out_b",  PROJ_BIAS,    "hidden"),
    row("think_b",     FC1_BIAS,     "(ffn glu)"),
    row("think_out_b", FC2_BIAS,     "hidden"),
)  # fmt: skip
INPUTS_FIRST = (
    row("look",      QKV,  "hidden (slot group head_dim)"),
    row("look_out",  PROJ, "(group query head_dim) hidden"),
    row("think",     FC1,  "hidden (ffn glu)"),
    row("think_out", FC2,  "ffn hidden"),
)  # fmt: skip
OUTPUTS_FIRST = (
    row("look",      QKV,  "(slot group head_dim) hidden"),
    row("look_out",  PROJ, "hidden (group query head_dim)"),
    row("think",     FC1,  "(ffn glu) hidden"),
    row("think_out", FC2,  "hidden ffn"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """Which way round matrices lie."""

    inputs_first: bool


def layout(model: Model, settings: Settings) -> Layout:
    """Every stored tensor, with the name of its file less the ending. Raises LayoutError for what has no place here."""
    templates = Templates()
    entries: list[Entry] = []
    for scope in model.scopes:
        for template in templates.of(scope, rows_of(scope, model, settings), ""):
            entries += [Entry(_file(scope), kind, template.unit) for kind in templates.lay(template, {}, frozenset())]
    return Layout(tuple(templates.kinds), tuple(entries))


def rows_of(scope: Scope, model: Model, settings: Settings) -> Rows:
    """The rows of a scope: those of the table whose logical tensors the model has."""
    layer = SMALL + (INPUTS_FIRST if settings.inputs_first else OUTPUTS_FIRST)
    table = {"embedding": START, "layer": layer, "output": END}.get(scope.kind, ())
    return rows_that_fit(scope, model, table, "toy")


def _file(scope: Scope) -> str:
    return f"layer-{scope.number:03d}" if scope.kind == "layer" else {"embedding": "start"}.get(scope.kind, "end")
