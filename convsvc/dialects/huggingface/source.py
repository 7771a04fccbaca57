"""Reading a Hugging Face directory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from convsvc.dialects.base import Source
from convsvc.dialects.checkpoint import Checkpoint
from convsvc.dialects.dcp.adapters import with_saved_adapters
from convsvc.dialects.dcp.checkpoint import place_of
from convsvc.dialects.huggingface.checkpoint import open_directory
from convsvc.dialects.huggingface.layout import Settings, lay_model, packed_in, unclear_folders
from convsvc.dialects.huggingface.put_together import put_together
from convsvc.dialects.layout import Layout
from convsvc.dialects.mindspeed_mm_sora.adapters import is_rank_files, with_rank_adapters
from convsvc.dialects.mindspeed_mm_sora.source import SOURCE as RANKS
from convsvc.dialects.peft.adapter_source import with_adapter
from convsvc.errors import SourceError
from convsvc.models.family import Family
from convsvc.models.model import Model
from convsvc.models.mtp_layers import numbered
from convsvc.models.scope import Rows, Scope
from convsvc.roots import RootedPath, Roots
from convsvc.tensors.blocks import lay
from convsvc.tensors.declare import Row


class HuggingFace(Source):
    """A directory of safetensors or `.bin` files with a config.json; adapters are merged from a PEFT directory beside it."""

    name = "huggingface"
    adapters = "peft"
    certainty = 0  # a configuration lies beside checkpoints of other formats, too

    def recognises(self, root: RootedPath) -> bool:
        return (root / "config.json").is_file()

    def words_dir(self, source: Any) -> str | None:
        return str(source.path)

    def open(self, source: Any, roots: Roots) -> Checkpoint:
        """The directory's headers, and those of the PEFT adapter that the job states. Raises SourceError, FormatError; PathRefused."""
        base = open_directory(source, roots)
        if source.lora is None or source.lora.path is None:
            return base
        root = RootedPath(source.lora.path, roots)
        if is_rank_files(root) and place_of(root) is None:
            return with_rank_adapters(RANKS, base, root)
        return with_saved_adapters(base, source.lora, root) if place_of(root) is not None else with_adapter(base, root)

    def by_family_names(self, checkpoint: Checkpoint, family: Family) -> Checkpoint:
        return put_together(checkpoint, family)

    def settings(self, source: Any, checkpoint: Checkpoint, model: Model) -> Settings | None:
        """Which of the family's packed rows are stored; None where none is.

        Raises SourceError if it cannot be seen which way round packed experts lie.
        """
        return packed_rows(model, {name: found.tensor.shape for (_, name), found in checkpoint.found.items()}, checkpoint.path)

    def layout(self, model: Model, settings: Settings | None = None) -> Layout:
        """Every tensor a Hugging Face checkpoint of this model has, in the model's order."""
        return lay_model(model, packed_in(settings))

    def ignores(self, key: tuple[str, str], model: Model) -> str | None:
        """Buffers that are no weights, and layers left out by num_layers."""
        stored = key[1]
        if any(re.search(pattern, stored) for pattern in model.family.ignored):
            return "a buffer that is computed, not a weight"
        layer = numbered(model.family.layer_prefix, "{layer}", stored)
        if layer is not None and layer < model.hidden_layers and layer not in model.kept:
            return f"in a layer that is left out: {model.num_layers} of {model.hidden_layers} are converted"
        mtp = model.mtp_layer_of(stored)
        if mtp is not None and mtp >= model.num_mtp and not model.carried_mtp:  # one that is carried is carried whole, by its rows
            return f"in an MTP layer that is not asked for: mtp_num_layers is {model.num_mtp}"
        return None

    def storing(self, model: Model, names: Iterable[str]) -> Model:
        return model.storing(names)


def packed_rows(model: Model, shapes: Mapping[str, tuple[int, ...]], path: str) -> Settings | None:
    """Which of the family's packed rows are stored, by the shapes of the whole tensors; None where none is. Raises SourceError."""
    packed = tuple(
        scope.prefix + each.stored
        for scope in model.scopes
        for each in _packed_in(scope, model.family.packed, shapes)
        if scope.prefix + _first_name(each) in shapes and scope.logicals.issuperset(part.name for part in each.logicals)
    )
    if not packed:
        return None
    _check_turned(shapes, packed, path)
    return Settings(tuple(sorted(packed)))


def _first_name(each: Row) -> str:
    """What a row's first tensor is called, where there is one for each index of an axis (experts)."""
    return each.stored.format(**dict.fromkeys(each.looped, 0)) if each.looped else each.stored


def _packed_in(scope: Scope, packed: Rows, shapes: Mapping[str, tuple[int, ...]]) -> Rows:
    """The packed rows that a scope may have. Where its own are called alike (Qwen3-VL-MoE), all of them or none, by the shapes."""
    own = {each.stored: each for each in scope.rows}
    alike = [each for each in packed if each.stored in own]
    if not alike:
        return packed
    fits = all(_shape(own[each.stored], scope) == shapes.get(scope.prefix + each.stored) for each in alike)
    return () if fits else packed


def _shape(row: Row, scope: Scope) -> tuple[int, ...]:
    return next(iter(lay(row, scope.sizes, {}))).shape


def _check_turned(shapes: Mapping[str, tuple[int, ...]], packed: tuple[str, ...], path: str) -> None:
    """Output before input is how transformers 5 packs experts; some models' own code packs them the other way round.

    The shape tells which it is, of both matrices of a layer together: one of them is no square. Raises SourceError where there is one only.
    """
    if unclear := unclear_folders(shapes, packed):
        raise SourceError(
            f"{path}: which way round the packed experts lie cannot be seen, as their matrices are square",
            facts=unclear[:5],
            do="save them one by one: transformers 5 does with save_pretrained(save_original_format=True)",
        )


SOURCE = HuggingFace()
