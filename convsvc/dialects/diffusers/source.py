"""Reading a published diffusion model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from convsvc.dialects.base import Source, Wants, refuse_parts
from convsvc.dialects.checkpoint import Checkpoint
from convsvc.dialects.diffusers.adapters import keep_adapters, name_adapters
from convsvc.dialects.diffusers.checkpoint import WEIGHTS, open_published, shapes_of
from convsvc.dialects.diffusers.job import DiffusersSource
from convsvc.dialects.diffusers.layout import Settings, lay_form
from convsvc.dialects.diffusers.seen import recognise_model, refuse_names, see
from convsvc.dialects.layout import Layout
from convsvc.families import FAMILIES
from convsvc.models.diffusion import SEEN, Diffusion, Spelling
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.model import Model
from convsvc.notes import Note
from convsvc.roots import RootedPath, Roots
from convsvc.spec import Options

POSITIONS = re.compile(r"(^|\.)pos_embed\.freqs_(cos|sin)$")


class Diffusers(Source):
    """Tensors under the names of diffusers or of the model's authors; sizes are their shapes'."""

    name = "diffusers"

    def recognises(self, root: RootedPath) -> bool:
        return any(re.fullmatch(r"diffusion_pytorch_model.*\.(safetensors|bin)(\.index\.json)?", name) for name in root.names())

    def words_dir(self, source: DiffusersSource) -> str | None:
        """The directory: its configuration, if it has one, goes with the weights. A single file has none."""
        return None if WEIGHTS.fullmatch(source.path) else str(source.path)

    def open(self, source: DiffusersSource, roots: Roots) -> Checkpoint:
        """The files' headers, and the family that their names show. Raises SourceError, FormatError; PathRefused."""
        checkpoint = open_published(source.path, roots)
        if source.remove_pos_emb:
            checkpoint = _without_positions(checkpoint)
        checkpoint = keep_adapters(checkpoint)
        shown = recognise_model([name for name, _ in shapes_of(name_adapters(checkpoint))], published())
        if shown is None:
            return checkpoint
        facts = Facts({**checkpoint.facts.values, "model_type_hf": shown.family.name}, checkpoint.facts.origin)
        return replace(checkpoint, facts=facts)

    def by_family_names(self, checkpoint: Checkpoint, family: Family) -> Checkpoint:
        """By the names of the form that fits, without what stands before them; what the shapes show goes to the facts.

        Raises SourceError for names that are no form of the family, layers that are missing and shapes that do not fit together.
        """
        if not isinstance(family, Diffusion):
            return checkpoint
        checkpoint = name_adapters(checkpoint)
        names = [name for name, _ in shapes_of(checkpoint)]
        shown = recognise_model(names, ((family, each) for each in family.forms))
        if shown is None:
            raise refuse_names(checkpoint.path, names, family, [each.name for each in family.forms])
        found = {("", shown.spelling.renamed(name.removeprefix(shown.prefix))): each for (_, name), each in checkpoint.found.items()}
        shapes = {name: each.tensor.shape for (_, name), each in found.items()}
        seen = see(shown, shapes, checkpoint.path, checkpoint.facts)
        facts = Facts({**checkpoint.facts.values, SEEN: seen}, checkpoint.facts.origin)
        return replace(checkpoint, found=found, facts=facts, settings=Settings(shown.spelling, shown.prefix))

    def wanted(self, options: Options, checkpoint: Checkpoint, wants: Wants) -> Wants:
        refuse_parts(options)
        return wants

    def settings(self, source: DiffusersSource, checkpoint: Checkpoint, model: Model) -> Settings:
        settings: Settings = checkpoint.settings
        return settings

    def layout(self, model: Model, settings: Settings) -> Layout:
        return lay_form(model, settings)

    def ignores(self, key: tuple[str, str], model: Model) -> str | None:
        """Parts of a pipeline that were saved with it, and buffers."""
        if any(re.search(pattern, key[1]) for pattern in model.family.ignored):
            return "no weight of the transformer"
        return None


def _without_positions(checkpoint: Checkpoint) -> Checkpoint:
    """Without tables of cosines and sines, which the model computes; models of other positions have none."""
    tables = [key for key in checkpoint.found if POSITIONS.search(key[1])]
    if not tables:
        return checkpoint
    note = Note("ignored", f"left out, as remove_pos_emb asks: {', '.join(name for _, name in tables)}")
    found = {key: each for key, each in checkpoint.found.items() if key not in tables}
    return replace(checkpoint, found=found, notes=(*checkpoint.notes, note))


def published() -> Iterator[tuple[Diffusion, Spelling]]:
    """Every form of every diffusion model that is known."""
    return ((family, each) for family in FAMILIES.values() if isinstance(family, Diffusion) for each in family.forms)


SOURCE = Diffusers()
