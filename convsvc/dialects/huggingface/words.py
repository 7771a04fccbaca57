"""The words of a model beside weights of another format, which have none of their own: Hugging Face's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from convsvc.dialects.huggingface.config_files import config_files
from convsvc.dialects.huggingface.layout import lay_model
from convsvc.dialects.output import SideFile
from convsvc.formats.base import TensorSpec
from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.notes import Note
from convsvc.roots import RootedPath, Roots


def words(
    config_dir: str | None, model: Model, facts: Facts, written: Iterable[TensorSpec], roots: Roots
) -> tuple[list[SideFile], list[Note]]:
    """config.json and what belongs to it, as beside Hugging Face weights: no other word of the model is in the files.

    Its dtype is that of most of what is `written`.
    """
    if model.family.as_stored:
        return [], [Note("advice", "these are tensors under their own names, of no model that is known: no config.json is written")]
    sizes = Counter[str]()
    for spec in written:
        sizes[spec.dtype] += spec.size_bytes
    main = sizes.most_common(1)[0][0]
    specs = [TensorSpec(laid.name, main, laid.shape) for laid in lay_model(model).kinds if laid.written]
    return config_files(None if config_dir is None else RootedPath(config_dir, roots), model, facts, specs)
