"""What lies beside new weights: the files of config_dir, with a config.json that describes these weights; without one, a derived one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from convsvc.dialects.huggingface.config import check_words, follow, prove, silent_words, without_quantisation
from convsvc.dialects.huggingface.copied_files import copied_files
from convsvc.dialects.huggingface.derived_config import derive
from convsvc.dialects.json_files import read_json
from convsvc.dialects.output import SideFile
from convsvc.encodings.release import quantisation_words
from convsvc.errors import PlanError
from convsvc.formats.base import TensorSpec
from convsvc.models.describe import dtype_words
from convsvc.models.facts import Facts, is_count, shown
from convsvc.models.model import Model
from convsvc.models.towers import spread
from convsvc.models.words import silences
from convsvc.notes import Note
from convsvc.roots import RootedPath, Roots

CONFIG = "config.json"
# What config.json says of quantisation, by where: "" is its top.
Quantisation = Mapping[str, Mapping[str, Any]]


def config_files(
    folder: RootedPath | None,
    model: Model,
    facts: Facts,
    specs: Sequence[TensorSpec],
    quantization: Quantisation | None = None,
    packed: frozenset[str] = frozenset(),
) -> tuple[list[SideFile], list[Note]]:
    """The side files and notes. `facts` are the source's; `specs` all tensors that are written, as they are when they are read.

    `quantization` is what config.json shall say of how they are stored, `packed` the rows that stand in the place of others (`lay_model`).

    Raises JobError where config_dir is none, or says what the source contradicts; PlanError where it cannot describe the weights.
    """
    written = {spec.name: spec.shape for spec in specs}
    sizes: Counter[str] = Counter()
    for spec in specs:
        sizes[spec.dtype] += spec.size_bytes
    if folder is None and model.family.others:
        text = "the target has weights only, no config.json: that of a model of several modules does not follow from its text decoder"
        return [], [Note("advice", f"{text}; give target.config_dir")]
    if folder is None:
        return _derived(model, facts, written, sizes, quantization, packed)
    like = quantization is not None and quantization == quantisation_words(read_json(folder / CONFIG))
    files, notes = copied_files(folder, of_release=like)
    origin = str(folder / CONFIG)
    given = dict(read_json(folder / CONFIG))
    config, left_out = without_quantisation(given)
    flat = model.family.flat(Facts(config, origin))
    check_words(flat, facts, model)
    notes += [Note("advice", f"{line}: see that the weights were trained so") for line in silences(facts, flat)]
    changes = follow(flat.values, model, facts, origin) | dtype_words(flat.values, sizes) | silent_words(flat, facts)
    changed = spread(config, changes, model.family.inside)
    prove(changed, model, written, origin, packed)
    if not changes and not left_out and quantization is None:
        return files, notes
    config = changed if quantization is None else _saying(changed, quantization)
    if config == given:
        return files, notes
    files = [file for file in files if file.path != CONFIG] + [SideFile(CONFIG, text=_text(config))]
    said = [f"{name} {shown(given.get(name))} -> {shown(value)}" for name, value in changes.items()]
    said += [f"{name} left out, as the weights are not quantised" for name in left_out if quantization is None]
    said += [] if quantization is None else ["quantization_config says how they are"]
    return files, [*notes, Note("changed", f"config.json of {folder} was changed: {', '.join(said)}")]


def _saying(config: Mapping[str, Any], quantization: Quantisation) -> dict[str, Any]:
    """The configuration with these words; those of the text lie at the top where it has no part of its own."""
    made = dict(config)
    for where, words in quantization.items():
        if where and isinstance(made.get(where), Mapping):
            made[where] = {**made[where], **words}
        else:
            made |= words
    return made


def spoken_vocab(config_dir: str | None, roots: Roots) -> int | None:
    """The vocabulary that a target's config_dir speaks of; None where there is none, or no number in it."""
    if config_dir is None or not (RootedPath(config_dir, roots) / CONFIG).is_file():
        return None
    value = read_json(RootedPath(config_dir, roots) / CONFIG).get("vocab_size")
    return int(value) if is_count(value) and value else None


def _derived(
    model: Model,
    facts: Facts,
    written: Mapping[str, tuple[int, ...]],
    sizes: Mapping[str, int],
    quantization: Quantisation | None,
    packed: frozenset[str],
) -> tuple[list[SideFile], list[Note]]:
    """A config.json from the model and the saved args; none where that would not be true."""
    config, unknown = derive(model, facts, sizes)
    try:
        check_words(Facts(config, "the derived config.json"), facts, model)
        prove(config, model, written, "the derived config.json", packed)
    except PlanError as error:
        text = f"the target has weights only, no config.json: none follows from the saved args ({'; '.join(error.facts) or error.message})"
        return [], [Note("advice", f"{text}; give target.config_dir")]
    notes = [Note("filled", "config.json is derived from the model and the saved args, as no config_dir is given; there is no tokenizer")]
    if unknown:
        text = f"nothing says {', '.join(unknown)}: the derived config.json is silent, and transformers takes its class's default"
        notes.append(Note("advice", f"{text}; give target.config_dir, or complete it"))
    config = {**config} if quantization is None else _saying(config, quantization)
    return [SideFile(CONFIG, text=_text(config))], notes


def _text(config: Mapping[str, Any]) -> str:
    return json.dumps(config, indent=2) + "\n"
