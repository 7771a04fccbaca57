"""Reading rank files of a diffusion model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from convsvc.dialects.base import Source, Wants, refuse_parts
from convsvc.dialects.checkpoint import Checkpoint, Found, SourceFile
from convsvc.dialects.diffusers.adapters import keep_adapters, name_adapters
from convsvc.dialects.diffusers.layout import seen_of
from convsvc.dialects.diffusers.seen import recognise_model
from convsvc.dialects.files import check_directory, index_file, index_files
from convsvc.dialects.iterations import TRACKER, Iteration
from convsvc.dialects.json_files import read_json
from convsvc.dialects.layout import Layout
from convsvc.dialects.mcore.checkpoint import MODEL, folder_name, iteration_folder, rank_paths, weights_beside
from convsvc.dialects.mcore.progress import reached, states_in
from convsvc.dialects.mcore.source import tracked_iterations
from convsvc.dialects.mindspeed_mm_sora.adapters import beside_ranks
from convsvc.dialects.mindspeed_mm_sora.form import FORMAT, FRAMEWORK
from convsvc.dialects.mindspeed_mm_sora.job import SoraSource
from convsvc.dialects.mindspeed_mm_sora.layout import Settings, lay_ranks
from convsvc.dialects.mindspeed_mm_sora.seen import candidates, ranks_of, recognise_ranks, see_ranks
from convsvc.dialects.mindspeed_mm_sora.target import counts_of
from convsvc.errors import ConvsvcError, JobError, SourceError
from convsvc.models.diffusion import SEEN, Diffusion
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.model import Model
from convsvc.notes import Note
from convsvc.roots import RootedPath, Roots
from convsvc.spec import Options

CONFIG = "config.json"


class Sora(Source):
    """Rank files whose model and cut are seen from their names and shapes."""

    name = FORMAT
    certainty = 3  # rank directories and tracker are as those of the other frameworks on Megatron

    def recognises(self, root: RootedPath) -> bool:
        if not (root / TRACKER).is_file() and not any(name.startswith("mp_rank_") for name in root.names()):
            return False
        try:
            index, _ = index_file(rank_paths(iteration_folder(root, None))[0])
        except ConvsvcError:
            return False
        names = [tensor.name.partition("/")[2] for tensor in index.tensors if MODEL.match(tensor.name)]
        return recognise_model(names, candidates()) is not None

    def iterations(self, root: RootedPath) -> tuple[Iteration, ...]:
        return tracked_iterations(root)

    def words_dir(self, source: SoraSource) -> str | None:
        return source.config_dir

    def open(self, source: SoraSource, roots: Roots) -> Checkpoint:
        """Every rank file's header, and the family that names show. Raises SourceError, FormatError; PathRefused."""
        root = RootedPath(source.path, roots)
        check_directory(root)
        folder = iteration_folder(root, source.iteration)
        files: list[SourceFile] = []
        found: dict[tuple[str, str], Found] = {}
        ignored: set[str] = set()
        paths = rank_paths(folder)
        first: Mapping[str, Any] | None = None
        for path, (index, file) in zip(paths, index_files(paths), strict=True):
            relative = os.path.relpath(path.path, root.path)
            for tensor in index.tensors:
                if MODEL.match(tensor.name):
                    found[relative, tensor.name] = Found(len(files), tensor)
            ignored |= states_in(index.tree)
            first = index.tree if first is None else first
            files.append(file)
        if not found:
            raise SourceError(f"the rank files of {root} hold no tensors under model, or model0, model1, ...", do="give another directory")
        notes = (*(Note("ignored", text) for text in sorted(ignored)), *weights_beside(folder, paths[0]))
        come_to = reached(first or {}, folder.name, with_state=bool(ignored))
        name = folder_name(folder, root)
        checkpoint = Checkpoint(str(root), tuple(files), found, _facts(source, root), name, notes, iteration=come_to)
        checkpoint = keep_adapters(checkpoint)
        shown = recognise_ranks(ranks_of(name_adapters(checkpoint)))
        if shown is None:
            return checkpoint
        facts = Facts({**checkpoint.facts.values, "model_type_hf": shown.family.name}, checkpoint.facts.origin)
        checkpoint = replace(checkpoint, facts=facts)
        if source.lora is None or source.lora.path is None:
            return checkpoint
        return beside_ranks(self, checkpoint, RootedPath(source.lora.path, roots))

    def by_family_names(self, checkpoint: Checkpoint, family: Family) -> Checkpoint:
        """With what names and shapes show. Raises SourceError where that is no model of the family, or not a whole one."""
        checkpoint = name_adapters(checkpoint)
        ranks = ranks_of(checkpoint)
        shown = recognise_ranks(ranks, family) if isinstance(family, Diffusion) else None
        if shown is None:
            names = sorted(ranks.names())
            raise SourceError(
                f"{checkpoint.path} does not look like {FRAMEWORK}'s rank files of {family.name}, by its tensors' names",
                facts=[f"there is {name}" for name in names[:12]],
            )
        seen, settings = see_ranks(ranks, shown, checkpoint, checkpoint.settings)
        facts = Facts({**checkpoint.facts.values, SEEN: seen}, checkpoint.facts.origin)
        return replace(checkpoint, facts=facts, settings=settings)

    def wanted(self, options: Options, checkpoint: Checkpoint, wants: Wants) -> Wants:
        refuse_parts(options)
        return wants

    def settings(self, source: SoraSource, checkpoint: Checkpoint, model: Model) -> Settings:
        """What is seen; what the job states must agree. Raises JobError."""
        settings: Settings = checkpoint.settings
        stated, tower = counts_of(source.pp_layers), counts_of(source.vit_pp_layers)
        faults = [] if source.tp_size in (None, settings.tp) else [f"tp_size {source.tp_size}: there are {settings.tp} tensor ranks"]
        stacks = seen_of(model).stacks
        seen = settings.counts or ((len(next(iter(stacks.values()))) if settings.form.pp else model_layers(model),),)
        tower_seen = settings.beside.get("vision") or ((len(stacks.get("vision", ())),),)
        if stated is not None and stated != seen:
            faults.append(f"pp_layers {[list(row) for row in stated]}: the files have {[list(row) for row in seen]}")
        if tower is not None and stacks.get("vision") and tower != tower_seen:
            faults.append(f"vit_pp_layers {[list(row) for row in tower]}: the files have {[list(row) for row in tower_seen]}")
        if faults:
            raise JobError(f"the job contradicts {checkpoint.path}", facts=faults, do="leave these out: they are read from there")
        return settings

    def layout(self, model: Model, settings: Settings) -> Layout:
        return lay_ranks(model, settings)

    def ignores(self, key: tuple[str, str], model: Model) -> str | None:
        """Objects of training, not weights."""
        return "an extra state, not a weight" if key[1].endswith("_extra_state") else None


def model_layers(model: Model) -> int:
    """All layers of a model."""
    return sum(scope.kind == "layer" for scope in model.scopes)


def _facts(source: SoraSource, root: RootedPath) -> Facts:
    if source.config_dir is not None:
        config = RootedPath(source.config_dir, root.roots) / CONFIG
        if config.is_file():
            return Facts(read_json(config), str(config))
    return Facts({}, str(root))


SOURCE = Sora()
