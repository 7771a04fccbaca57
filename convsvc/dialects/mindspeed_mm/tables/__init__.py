"""MindSpeed-MM's names for the logical tensors, by model family: each of its converters has names of its own for the towers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from convsvc.dialects.mcore.tables import Tables
from convsvc.dialects.mindspeed_mm.tables.audio import AUDIO
from convsvc.dialects.mindspeed_mm.tables.intern_vit import INTERN_TEXT, INTERN_VIT
from convsvc.dialects.mindspeed_mm.tables.others import (
    CANONICAL_REWARD_TEXT,
    DEEPSEEK_TEXT,
    DEEPSEEK_TOKENS,
    DEEPSEEK_VISION,
    GLM_TEXT,
    GLM_VISION,
    REWARD_TEXT,
)
from convsvc.dialects.mindspeed_mm.tables.text import CANONICAL_TEXT, FORMAT, TEXT
from convsvc.dialects.mindspeed_mm.tables.vision import CANONICAL_QWEN2_VISION, CANONICAL_QWEN25_VISION, QWEN2_VISION, QWEN3_VISION
from convsvc.errors import LayoutError


@dataclass(frozen=True, slots=True)
class Names:
    """A family's tables: fused as Megatron's, and with Hugging Face's parts where that is known (`canonical`).

    `uncut`: how its tensors would be cut over tensor ranks is not known.
    """

    fused: Tables
    canonical: Tables | None = None
    uncut: bool = False


def _with(text: Tables, **modules: Tables) -> Tables:
    return replace(text, modules=modules)


INTERN_TEXTS = ("llama2", "internlm2", "qwen25", "qwen3", "qwen3-moe")
BY_FAMILY: Mapping[str, Names] = {
    "qwen2-vl": Names(_with(TEXT, image_encoder=QWEN2_VISION), _with(CANONICAL_TEXT, image_encoder=CANONICAL_QWEN2_VISION)),
    "qwen2.5-vl": Names(_with(TEXT, image_encoder=QWEN2_VISION), _with(CANONICAL_TEXT, image_encoder=CANONICAL_QWEN25_VISION)),
    "qwen2.5-omni": Names(_with(TEXT, image_encoder=QWEN2_VISION, audio_encoder=AUDIO)),
    **{f"internvl-{name}": Names(_with(INTERN_TEXT, image_encoder=INTERN_VIT)) for name in INTERN_TEXTS},
    "glm4v": Names(_with(GLM_TEXT, image_encoder=GLM_VISION), uncut=True),
    "deepseek-vl2": Names(_with(DEEPSEEK_TEXT, image_encoder=DEEPSEEK_VISION, image_tokens=DEEPSEEK_TOKENS)),
    "videoalign": Names(_with(REWARD_TEXT, image_encoder=QWEN2_VISION), _with(CANONICAL_REWARD_TEXT, image_encoder=CANONICAL_QWEN2_VISION)),
    **{f"internvl-hf-{name}": Names(_with(INTERN_TEXT, image_encoder=INTERN_VIT)) for name in INTERN_TEXTS if name != "internlm2"},
    "qwen3-vl": Names(_with(TEXT, image_encoder=QWEN3_VISION)),
    "qwen3-vl-moe": Names(_with(TEXT, image_encoder=QWEN3_VISION)),
}


def tables_of(family: str, canonical: bool) -> Tables:
    """The tables of a family. Raises LayoutError where MindSpeed-MM has none for it, or none with Hugging Face's parts."""
    names = BY_FAMILY.get(family)
    if names is None:
        raise LayoutError(f"{FORMAT} has no place for {family}", facts=[f"it has one for {', '.join(BY_FAMILY)}"])
    if not canonical:
        return names.fused
    if names.canonical is None:
        raise LayoutError(f"{FORMAT} has no canonical structure for {family}", do="leave enable_canonical_hf_struct out")
    return names.canonical


def check_cut(family: str, tp: int) -> None:
    """Raises LayoutError for a family that is not cut over tensor ranks."""
    names = BY_FAMILY.get(family)
    if names is not None and names.uncut and tp > 1:
        raise LayoutError(f"tp_size is {tp}: how {FORMAT} cuts {family} over tensor ranks is not known", do="use tp_size 1")


def is_cut(tables: Tables) -> bool:
    """Whether any row of a module is cut over tensor ranks."""
    layers = tables.local
    rows = (*layers.dense, *layers.sparse, *layers.experts, *tables.embedding, *tables.norms, *tables.outputs)
    return any(row.tp or row.etp for row in rows)


__all__ = ["BY_FAMILY", "FORMAT", "Names", "check_cut", "is_cut", "tables_of"]
