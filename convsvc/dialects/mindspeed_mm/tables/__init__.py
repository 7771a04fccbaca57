"""MindSpeed-MM's names for the logical tensors, by model family: each of its converters has names of its own for the towers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from convsvc.dialects.mcore.tables import Tables
from convsvc.dialects.mindspeed_mm.tables.audio import AUDIO
from convsvc.dialects.mindspeed_mm.tables.intern_vit import INTERN_TEXT, INTERN_VIT
from convsvc.dialects.mindspeed_mm.tables.text import CANONICAL_TEXT, FORMAT, TEXT
from convsvc.dialects.mindspeed_mm.tables.vision import CANONICAL_QWEN2_VISION, CANONICAL_QWEN25_VISION, QWEN2_VISION, QWEN3_VISION
from convsvc.errors import LayoutError


@dataclass(frozen=True, slots=True)
class Names:
    """A family's tables: fused as Megatron's, and with Hugging Face's parts where that is known (`canonical`)."""

    fused: Tables
    canonical: Tables | None = None


def _with(text: Tables, **modules: Tables) -> Tables:
    return replace(text, modules=modules)


INTERN_TEXTS = ("llama2", "internlm2", "qwen25", "qwen3", "qwen3-moe")
BY_FAMILY: Mapping[str, Names] = {
    "qwen2-vl": Names(_with(TEXT, image_encoder=QWEN2_VISION), _with(CANONICAL_TEXT, image_encoder=CANONICAL_QWEN2_VISION)),
    "qwen2.5-vl": Names(_with(TEXT, image_encoder=QWEN2_VISION), _with(CANONICAL_TEXT, image_encoder=CANONICAL_QWEN25_VISION)),
    "qwen2.5-omni": Names(_with(TEXT, image_encoder=QWEN2_VISION, audio_encoder=AUDIO)),
    **{f"internvl-{name}": Names(_with(INTERN_TEXT, image_encoder=INTERN_VIT)) for name in INTERN_TEXTS},
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


__all__ = ["BY_FAMILY", "FORMAT", "Names", "tables_of"]
