"""Which files of a config_dir lie beside new weights, and which would make of them something else."""

from __future__ import annotations

import os
import re
import stat

from convsvc.dialects.output import CARD, MANIFEST, REPORT, SideFile
from convsvc.errors import JobError
from convsvc.notes import Note
from convsvc.roots import RootedPath

# What describes a model beside its weights: configuration, tokenizer, chat template, the model's own code, the licence.
COPIED = re.compile(r"(.*\.json|tokenizer.*|.*\.model|.*\.jinja|.*\.py|merges\.txt|vocab.*|LICENSE.*|README\.md)$")
WEIGHTS = re.compile(r".*\.(safetensors|bin|pt|pth|ckpt|gguf|msgpack|h5|onnx)$|.*\.index\.json$")
# Loaders look for these: transformers takes a directory with adapter_config.json for an adapter (peft), the others say how weights
# are quantised (ModelOpt, AutoGPTQ, AutoAWQ, llm-compressor), and new weights are not. Trainer's files are about another run.
QUANTISED = re.compile(r"(hf_quant_config\.json|quantize_config\.json|quant_config\.json|quantization_config\.json|recipe\.yaml)$")
FOREIGN = re.compile(
    r"(adapter_.*|hf_quant_config\.json|quantize_config\.json|quant_config\.json|quantization_config\.json|recipe\.yaml"
    r"|trainer_state\.json|training_args\..*|optimizer.*|scheduler.*|rng_state.*|(all|train|eval|predict)_results\.json|zero_to_fp32\.py)$"
)


def copied_files(root: RootedPath, field: str = "target.config_dir", of_release: bool = False) -> tuple[list[SideFile], list[Note]]:
    """The files that go with the weights, and a note about those that do not. Raises JobError where there is no configuration.

    `of_release`: weights are quantised as the directory's own are, so what says how they are goes along.
    """
    if not root.is_dir():
        raise JobError(f"{field} {root} is not a directory")
    if not (root / "config.json").is_file():
        raise JobError(f"{field} {root} has no config.json")
    # Other names are not even looked at: a link that leads elsewhere is none of the job's business. Nor is what an earlier conversion says.
    names = [name for name in root.names() if (goes_along(name) or FOREIGN.match(name)) and name not in (MANIFEST, REPORT, CARD)]
    seen = [(name, found) for name in names if (found := (root / name).look()) is not None and stat.S_ISREG(found[1].st_mode)]
    said = {name for name, _ in seen if of_release and QUANTISED.match(name)}
    foreign = [name for name, _ in seen if FOREIGN.match(name) and name not in said]
    files = [_copied(name, *found) for name, found in seen if goes_along(name) or name in said]
    named = ", ".join(sorted(foreign)[:8])
    notes = [Note("ignored", f"not copied from {root}, as it is not about full weights as they are written: {named}")]
    return files, notes if foreign else []


def _copied(name: str, path: str, status: os.stat_result) -> SideFile:
    return SideFile(name, copy_from=path, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns)


def goes_along(name: str) -> bool:
    """Whether a file of this name belongs beside a model's weights, whoever wrote them.

    >>> goes_along("generation_config.json"), goes_along("adapter_config.json"), goes_along("model.safetensors.index.json")
    (True, False, False)
    """
    return bool(COPIED.match(name)) and not FOREIGN.match(name) and not WEIGHTS.match(name)
