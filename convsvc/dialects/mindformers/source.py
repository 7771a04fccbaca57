"""Reading a checkpoint of MindSpore Transformers."""

from __future__ import annotations

from collections.abc import Mapping

from convsvc.dialects.base import Source, Wants, refuse_parts
from convsvc.dialects.checkpoint import Checkpoint
from convsvc.dialects.iterations import Iteration, tracked
from convsvc.dialects.layout import Layout
from convsvc.dialects.mindformers.checkpoint import UNIFIED, Opened, looks_like, open_checkpoint
from convsvc.dialects.mindformers.chunked import iterations
from convsvc.dialects.mindformers.facts import CONFIG
from convsvc.dialects.mindformers.flags import READ, flag_notes, flags_of
from convsvc.dialects.mindformers.job import MindFormersSource
from convsvc.dialects.mindformers.layout import Settings, layout
from convsvc.dialects.mindformers.names import is_counter, why_ignored
from convsvc.models.model import Model
from convsvc.notes import Note
from convsvc.roots import RootedPath, Roots
from convsvc.spec import Options

EXPERTS = "mlp.experts.weight1"


class MindFormers(Source):
    """Safetensors under Megatron's names; what the files do not say of the layout, the job does."""

    name = "mindformers"
    certainty = 2  # newer checkpoints have a tracker as Megatron's do, and directories of their own names

    def recognises(self, root: RootedPath) -> bool:
        return looks_like(root)

    def iterations(self, root: RootedPath) -> tuple[Iteration, ...]:
        """The `iteration_...` directories as far as the tracker goes, where training saves such; else every numbered directory."""
        there, last = iterations(root), tracked(root)
        if not there:
            return super().iterations(root)
        return tuple(
            Iteration(number, name, {"path": root.path, "file_suffix": str(number)}, number <= (-1 if last is None else last))
            for number, name in sorted(there.items())
        )

    def settled(self, source: MindFormersSource, roots: Roots) -> MindFormersSource:
        """With the configuration that lies beside the weights, where the job names none."""
        if source.config_dir is not None:
            return source
        places = (RootedPath(source.path, roots), RootedPath(source.path, roots) / UNIFIED)
        beside = next((place.path for place in places if (place / CONFIG).is_file()), None)
        return source.model_copy(update={"config_dir": beside})

    def words_dir(self, source: MindFormersSource) -> str | None:
        return source.config_dir

    def open(self, source: MindFormersSource, roots: Roots) -> Checkpoint:
        return open_checkpoint(source, roots)

    def wanted(self, options: Options, checkpoint: Checkpoint, wants: Wants) -> Wants:
        """The MTP layers that are there. It is converted whole, as its tensors say how many layers there are."""
        refuse_parts(options)
        return Wants(checkpoint.facts.first_number(("mtp_num_layers",)))

    def shapes(self, checkpoint: Checkpoint) -> Mapping[str, tuple[int, ...]]:
        opened: Opened = checkpoint.settings
        return opened.shapes

    def settings(self, source: MindFormersSource, checkpoint: Checkpoint, model: Model) -> Settings:
        """As a configuration or the job says; whether experts are stacked, their shapes do. Raises JobError."""
        opened: Opened = checkpoint.settings
        stacked = any(name.endswith(EXPERTS) and len(shape) == 3 for name, shape in opened.shapes.items())
        flags = flags_of(source, checkpoint.facts, stacked)
        rows = opened.shapes.get("embedding.word_embeddings.weight", (0,))[0]
        padded = rows if model.scopes and rows > model.sizes["vocab"] else None
        return Settings(flags, padded, opened.cuts)

    def layout(self, model: Model, settings: Settings) -> Layout:
        return layout(model, settings)

    def remarks(self, model: Model, settings: Settings) -> tuple[Note, ...]:
        return flag_notes(model, settings.flags, READ)

    def ignores(self, key: tuple[str, str], model: Model) -> str | None:
        """What training keeps beside the weights, told by its name. Who asks for tensors of no model wants all that a strategy cuts."""
        if model.scopes or is_counter(key[1]):
            return why_ignored(key[1])
        return None


SOURCE = MindFormers()
