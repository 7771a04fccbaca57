"""Opening a checkpoint: the tracker, the rank directories, and each rank file's header."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from convsvc.dialects.base import without_state
from convsvc.dialects.checkpoint import AdapterFacts, Checkpoint, Found, SourceFile
from convsvc.dialects.files import check_directory, index_file, index_files
from convsvc.dialects.iterations import MAX_TRACKER_BYTES, TRACKER
from convsvc.dialects.mcore import carried
from convsvc.dialects.mcore.adapters import overlay, refuse_peft
from convsvc.dialects.mcore.args_digest import changed_since
from convsvc.dialects.mcore.grid import Parallel, ranks
from convsvc.dialects.mcore.one_run import OneRun
from convsvc.dialects.mcore.progress import WITHOUT, reached, states_beside, states_in
from convsvc.dialects.mcore.rank_files import FILE, rank_folder
from convsvc.dialects.mcore.saved_layout import WITHOUT_ARGS, check_own_words, check_stated, describe_layout, parallel_of
from convsvc.dialects.mcore.seen_sizes import check_padding, see_layout, vocab_divisor
from convsvc.dialects.mcore.settings import Settings
from convsvc.dialects.mcore.sizes import RankFilesSource
from convsvc.dialects.recognise import ITERATION, SHOWN, WEIGHTS, refuse
from convsvc.errors import SourceError
from convsvc.formats.base import FileIndex, Inert
from convsvc.formats.regular_file import open_regular
from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.notes import Note
from convsvc.roots import RootedPath, Roots
from convsvc.spec import stated_sizes

TE_NAMES = r"(\.layer_norm_weight|\.experts\.linear_fc1\.weight\d+)$"
# What a model chunk holds, in the name of its tensors.
MODEL = re.compile(r"model\d*/")


Args = Mapping[str, Any]
Correct = Callable[[Args, Mapping[tuple[str, str], Found]], tuple[Args, tuple[Note, ...]]]


def open_rank_files(source: RankFilesSource, roots: Roots, correct: Correct, lora: Callable[[Facts], AdapterFacts]) -> Checkpoint:
    """Every rank file's header, and those of a LoRA checkpoint beside it, whose tensors take the place of the base's.

    `correct` gives a framework's args where its own tools save wrong ones, and says so; `lora` finds what its args say of adapters.
    """
    base = _open_one(RootedPath(source.path, roots), correct, source.iteration, stated_sizes(source.architecture))
    if source.lora is None or source.lora.path is None:
        return replace(base, lora=lora(base.facts))
    refuse_peft(RootedPath(source.lora.path, roots))
    over = _open_one(RootedPath(source.lora.path, roots), correct)
    return overlay(base, over, lora(over.facts))


def _open_one(root: RootedPath, correct: Correct, iteration: str | None = None, stated: Mapping[str, int] | None = None) -> Checkpoint:
    """Every rank file's header; the args of the first, which all others must repeat. Without any, what the job states and what is seen."""
    check_directory(root)
    folder = iteration_folder(root, iteration)
    files: list[SourceFile] = []
    found: dict[tuple[str, str], Found] = {}
    saved: Mapping[str, Any] | None = None
    changed: tuple[Note, ...] = ()
    ignored: set[str] = set()
    first: Mapping[str, Any] | None = None
    rank_files = rank_paths(folder)
    states = states_beside(rank_files[0])
    one_run = OneRun(folder.name)
    for rank_file, (index, file) in zip(rank_files, index_files(rank_files), strict=True):
        args = _args_of(index, rank_file, bool(stated))
        saved = args if saved is None else saved
        changed = changed or changed_since(args, str(rank_file))
        one_run.check(index.tree, args, str(rank_file))
        before = len(found)
        relative = os.path.relpath(rank_file.path, root.path)
        for tensor in index.tensors:
            if MODEL.match(tensor.name):
                found[relative, tensor.name] = Found(len(files), tensor)
        ignored |= set(objects_in(index, len(found) - before))
        states |= states_in(index.tree)
        first = index.tree if first is None else first
        files.append(file)
    if (folder / carried.FILE).is_file():
        index, file = index_file(folder / carried.FILE)
        found |= {(carried.carried_file(folder_name(folder, root)), tensor.name): Found(len(files), tensor) for tensor in index.tensors}
        files.append(file)
    args, corrected = correct(saved or {}, found)
    facts = Facts(args, f"the args saved in {folder}") if args else Facts(see_layout(found), f"{folder}, {WITHOUT_ARGS}")
    facts = facts.stating(stated or {})
    notes = (
        *(Note("ignored", text) for text in sorted(ignored | states)),
        *weights_beside(folder, rank_files[0]),
        *corrected,
        *changed,
        *one_run.notes(),
    )
    come_to = reached(first or {}, folder.name, with_state=bool(states))
    return Checkpoint(str(root), tuple(files), found, facts, folder_name(folder, root), notes, iteration=come_to)


def refuse_state(root: RootedPath, iteration: str | None, what: str) -> NoReturn:
    """Raises JobError naming the state in the first rank's file (all ranks' are alike) and beside it, as rank files are given none."""
    first = rank_paths(iteration_folder(root, iteration))[0]
    states = states_in(index_file(first)[0].tree) | states_beside(first)
    raise without_state("source", what, states, do=WITHOUT)


def folder_name(folder: RootedPath, root: RootedPath) -> str:
    """The iteration's directory relative to the checkpoint; empty where it is that itself."""
    return "" if folder == root else folder.name


def settings_of(source: RankFilesSource, checkpoint: Checkpoint, model: Model) -> Settings:
    """The layout the saved args state. How experts and norms are named is seen from the names themselves."""
    parallel = parallel_of(checkpoint.facts)
    names = {key[1] for key in checkpoint.found}
    settings = Settings(
        parallel,
        padded_vocab=_stored_vocab(checkpoint, parallel.tp) or model.sizes["vocab"],
        grouped_gemm=_seen(names, r"\.experts\.(weight1|linear_fc1\.weight\d+)$", r"\.local_experts\.", source.moe_grouped_gemm),
        transformer_engine=_seen(
            names, TE_NAMES, r"\.self_attention\.linear_qkv\.weight$", source.transformer_impl == "transformer_engine"
        ),
        mla_mm_split=_seen(names, r"\.self_attention\.linear_qk_nope\.", r"\.self_attention\.linear_kv_up_proj\.", source.mla_mm_split),
        folder=checkpoint.settings,
        every_pair=_every_pair(checkpoint, parallel),
        vocab_divisor=vocab_divisor(checkpoint.facts),
    )
    check_own_words(checkpoint.facts)
    check_stated(source, settings, model, f"what is saved in {checkpoint.path}")
    check_padding(checkpoint.facts, model.sizes["vocab"], settings.padded_vocab, parallel.tp)
    _check_ranks(checkpoint, settings)
    return settings


def assumed(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The layout that is taken for the checkpoint's and where each number came from, for an error about it."""
    return describe_layout(checkpoint.facts, parallel_of(checkpoint.facts))


def _every_pair(checkpoint: Checkpoint, parallel: Parallel) -> bool:
    """Whether there is a file for every pair of tensor and expert rank, though expert_tensor_parallel_size 1 needs fewer."""
    if parallel.etp != 1 or parallel.tp == 1 or parallel.ep == 1:
        return False
    have = {Path(file.name).parent.name for file in checkpoint.files}
    return all(rank_folder(rank, parallel) in have for rank in ranks(parallel, every_pair=True))


def _seen(names: Iterable[str], on: str, off: str, stated: bool | None) -> bool:
    """Which of two conventions the names follow; where there is nothing that either is about, what is stated has no effect."""
    if any(re.search(on, each) for each in names):
        return True
    return bool(stated) and not any(re.search(off, each) for each in names)


def stored_rows(checkpoint: Checkpoint) -> int | None:
    """Rows of the word embedding over all tensor ranks, padding included."""
    return _stored_vocab(checkpoint, parallel_of(checkpoint.facts).tp)


def _stored_vocab(checkpoint: Checkpoint, tp: int) -> int | None:
    shapes = [found.tensor.shape for (_, name), found in checkpoint.found.items() if name.endswith("/embedding.word_embeddings.weight")]
    return shapes[0][0] * tp if shapes and shapes[0] else None


def iteration_folder(root: RootedPath, stated: str | None) -> RootedPath:
    """The directory of the iteration that the tracker names, or that is stated; the root itself where rank directories lie in it."""
    if stated is None and any(name.startswith("mp_rank_") for name in root.names()):
        return root
    tracker = root / TRACKER
    if stated is None and not tracker.is_file():
        _refuse_untracked(root)
        refuse(root, "a checkpoint of Megatron rank files", but=("checkpoints",))
        raise SourceError(
            f"{root} has no {TRACKER} and no mp_rank_* directories",
            do="give the directory that training saved to, or source.iteration",
        )
    text = stated or _tracked(tracker)
    if text != "release" and not re.fullmatch(r"[0-9]+", text):
        raise SourceError(f"{tracker} says {text[:80]!r}; it must be a number or 'release'")
    folder = root / ("release" if text == "release" else f"iter_{int(text):07d}")
    if not folder.is_dir():
        raise SourceError(f"{folder} does not exist, though {'source.iteration' if stated else tracker} says {text}")
    return folder


def _refuse_untracked(root: RootedPath) -> None:
    """Raises SourceError where there are iterations, and nothing that says which of them training has come to."""
    iterations = [name for name in root.names() if re.fullmatch(ITERATION, name)]
    if iterations:
        shown = ", ".join(iterations[:SHOWN]) + (", ..." if len(iterations) > SHOWN else "")
        raise SourceError(
            f"{root} has {shown}, and no {TRACKER} that says which of them is meant",
            do="write its number, or `release`, into that file; or state source.iteration; or give the iteration's own directory",
        )


def _tracked(tracker: RootedPath) -> str:
    with open_regular(tracker, may_be_empty=True) as file:
        return file.read(0, min(file.size_bytes, MAX_TRACKER_BYTES), "the iteration").decode("utf-8", errors="replace").strip()


def rank_paths(folder: RootedPath) -> list[RootedPath]:
    """Every rank's file. Raises SourceError where there is none, or a rank's directory has none."""
    folders = [folder / name for name in folder.names() if re.fullmatch(r"mp_rank_\d+(_\d+){0,2}", name)]
    if not folders:
        refuse(folder, "a directory of Megatron rank files", but=("rank_files",))
        raise SourceError(f"{folder} has no mp_rank_* directories", do="give the directory that training saved to")
    lacking = [path for path in folders if not (path / FILE).is_file()]
    if lacking:
        there = ", ".join(lacking[0].names()[:5]) or "nothing"
        raise SourceError(
            f"{folder} has {len(lacking)} rank directories without {FILE}: {', '.join(path.name for path in lacking[:5])}",
            facts=[f"{lacking[0].name} holds {there}" + (f", but {FILE} is a link to nothing" if FILE in there else "")],
            do=f"fetch them; every rank's directory holds its {FILE}",
        )
    return [path / FILE for path in folders]


def weights_beside(folder: RootedPath, first: RootedPath) -> list[Note]:
    """A note for what looks like weights in the iteration's directory or the first rank's (all ranks' are alike) and is not read."""
    rank = RootedPath(os.path.dirname(first.path), first.roots)
    names = [f"{rank.name}/{name}" for name in rank.names() if name != FILE] + [name for name in folder.names() if name != carried.FILE]
    unread = [name for name in names if WEIGHTS.fullmatch(name)]
    shown = ", ".join(unread[:5]) + (f" and {len(unread) - 5} more" if len(unread) > 5 else "")
    return [Note("ignored", f"beside the rank files, and not read: {shown}")] if unread else []


def _args_of(index: FileIndex, path: RootedPath, may_lack: bool) -> Mapping[str, Any]:
    """The saved args; none if the job states what else would be in them."""
    args = index.tree.get("args")
    if isinstance(args, Namespace):
        return vars(args)
    if args is None and may_lack:
        return {}
    raise SourceError(
        f"{path} has no saved args" if args is None else f"the args in {path} are a {type(args).__name__}",
        do="without them the parallel sizes and the architecture are not known; save the checkpoint with its args",
    )


def _check_ranks(checkpoint: Checkpoint, settings: Settings) -> None:
    """Every rank of the grid must be there."""
    have = {Path(file.name).parent.name for file in checkpoint.files}
    need = [rank_folder(rank, settings.parallel) for rank in ranks(settings.parallel)]
    missing = [each for each in need if each not in have]
    if missing:
        shown = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
        raise SourceError(
            f"{len(missing)} of {len(need)} rank directories are missing: {shown}",
            facts=assumed(checkpoint),
            do="fetch them; nothing can stand in for a rank",
        )


def objects_in(index: FileIndex, tensors: int) -> Iterator[str]:
    """What stands among a model's tensors, of which there are so many, and is none: Transformer Engine's extra states, as a rule."""
    chunks = [value for key, value in index.tree.items() if MODEL.match(f"{key}/") and isinstance(value, Mapping)]
    if sum(map(len, chunks)) <= tensors:
        return
    for name in (name for chunk in chunks for name, value in chunk.items() if isinstance(value, Inert)):
        yield f"*.{str(name).rpartition('.')[2]} in the models: objects, not tensors"
