"""Rank files held against the Hugging Face directory that their training began with: what that has must be here."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from convsvc.dialects.checkpoint import Checkpoint
from convsvc.dialects.huggingface.names import change_names, find_change
from convsvc.dialects.huggingface.put_together import with_own_head
from convsvc.dialects.huggingface.stored_names import stored_names
from convsvc.errors import SourceError
from convsvc.models.family import Family
from convsvc.models.model import Model

SHOWN = 12
# Of the decoder's stack in rank files: an output layer beside the embedding.
OUTPUT = "text_decoder.output_layer.weight"
# They may be kept one by one here and in one tensor there; that all are there, the model proves.
EXPERTS = re.compile(r"(.*\.)?experts\..*")


def with_head(checkpoint: Checkpoint, family: Family, there: Collection[str] | None, own: bool) -> Checkpoint:
    """The checkpoint of a model with an output layer of its own, where the rank files have one and the job or the directory says so."""
    head = next((row.stored for row in family.output), None)
    is_here = any(name.partition("/")[2] == OUTPUT for _, name in checkpoint.found)
    is_own = own or (there is not None and head in _by_family_names(there, family))
    return with_own_head(checkpoint, family, OUTPUT) if head is not None and is_here and is_own else checkpoint


def check_alike(checkpoint: Checkpoint, model: Model, there: Collection[str], like_dir: str) -> None:
    """Raises SourceError for weights of the directory that the rank files, by their model, lack."""
    family = model.family
    known = {*stored_names(replace(model, tied=False)), *(each.name for each in model.carried)}
    known |= {row.stored for row in (*family.output, *family.tied_output)}
    missing = sorted(name for name in _by_family_names(there, family) if not _is_known(name, known, family))
    if missing:
        raise SourceError(
            f"{checkpoint.path} lacks {len(missing)} of the {len(there)} weights that {like_dir} has",
            facts=missing[:SHOWN],
            do="see that both are of one model, and that the directory has the weights of what is not trained",
        )


def _by_family_names(there: Collection[str], family: Family) -> list[str]:
    change = find_change(there, family)
    return list(there) if change is None else list(change_names(there, change, family).values())


def _is_known(name: str, known: Collection[str], family: Family) -> bool:
    """Whether a stored tensor is the model's, a scale of one, or none of its weights."""
    weight, _, _ = name.partition("_scale")
    return name in known or weight in known or EXPERTS.fullmatch(name) is not None or any(re.search(each, name) for each in family.ignored)
