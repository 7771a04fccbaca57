"""A `.metadata` of a million entries, in the form in which training writes it: inspected, and planned to Hugging Face.

    python -m benchmarks.entries                           Kimi-K2 1T with the state of its optimizer, of 512 ranks
    ... --directory /disk --etp 2 --model deepseek-v3-671b

The checkpoint is one of `--ckpt-format torch_dist` with fully reshardable state: every expert of every layer cut by expert tensor ranks,
gates and what they gate by themselves, the other matrices by tensor ranks; of each weight there are the parameter and both moments, too.
torch's own classes are pickled by the standard pickler, as Megatron core does it. Files are of their real sizes, weights holes.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise, product
from math import prod
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from benchmarks.measuring import ROOT, machine
from benchmarks.planning import peak_bytes
from benchmarks.results import FOLDER, MIB, save
from benchmarks.sparse_models import MODELS
from convsvc.dialects.mcore.grid import Parallel
from convsvc.dialects.mcore.saved_args import compose_args
from convsvc.dialects.mcore.settings import Settings
from convsvc.dialects.megatron.extra_states import extra_states
from convsvc.dialects.megatron.layout import Key, Keys, lay_keys
from convsvc.dialects.megatron.own_args import own_args
from convsvc.families import find_family
from convsvc.formats import distcp
from convsvc.formats.base import StoredTensor, TensorSpec
from convsvc.formats.zip.crc import crc32_zeros
from convsvc.models.facts import Facts
from convsvc.models.family import Wanted
from convsvc.tensors.boxes import Box

KINDS = ("param", "exp_avg", "exp_avg_sq")
# Which axis of a matrix of two axes tensor ranks cut; None: each has the whole.
COLUMNS = ("linear_fc2.weight", "linear_proj.weight")
WHOLE = ("norm.weight", "layer_norm_weight", "router.weight", "expert_bias", "linear_q_down_proj.weight", "linear_kv_down_proj.weight")


@dataclass(frozen=True, slots=True)
class Layout:
    """How many ranks save, and by how many of them matrices are cut: the experts' and the others."""

    ranks: int = 512
    tp: int = 8
    etp: int = 4


@dataclass(slots=True)
class Files:
    """What lies in which file, each entry behind the last one of its file; ranks save in turns."""

    ranks: int
    tensors: dict[str, list[StoredTensor]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    count: int = 0

    def place(self, dtype: str, shape: tuple[int, ...], kind: int, *, kept: bool) -> tuple[str, int, int]:
        """The file, the first byte and the length of a new entry, which is `kept` to be written, or only takes its room."""
        file = f"__{self.count % self.ranks}_{kind}.distcp"
        self.count += 1
        skeleton = distcp.plan_skeleton([TensorSpec("", dtype, shape)])
        start = -(-self.sizes.get(file, 0) // 4096) * 4096
        self.sizes[file] = start + skeleton.size_bytes
        tensor = StoredTensor("", dtype, shape, start + skeleton.tensors[0].file_offset)
        if kept:
            self.tensors.setdefault(file, []).append(tensor)
        return file, *distcp.item_of(tensor)

    def write(self, folder: Path) -> None:
        """Every file, its weights holes."""
        for name, size_bytes in self.sizes.items():
            with open(folder / name, "wb", buffering=0) as opened:
                os.ftruncate(opened.fileno(), size_bytes)
                for tensor in self.tensors.get(name, ()):
                    for offset, data in (*distcp.frame(tensor), *distcp.closing(tensor, crc32_zeros(tensor.size_bytes))):
                        os.pwrite(opened.fileno(), data, offset)


def write_training_checkpoint(root: Path, config: Mapping[str, Any], layout: Layout) -> int:
    """Writes such a checkpoint of a configuration to a directory; answers how many entries its `.metadata` has."""
    import torch
    from torch.distributed.checkpoint import metadata as of
    from torch.distributed.checkpoint.filesystem import _StorageInfo

    folder = root / "iter_0000100"
    folder.mkdir(parents=True)
    facts = Facts(config, "the benchmark")
    model = find_family(None, facts).build(facts, Wanted(num_mtp=0))
    settings = Keys(model.sizes["vocab"], stacked=False)
    said: dict[str, Any] = {}
    places: dict[of.MetadataIndex, _StorageInfo] = {}
    files = Files(layout.ranks)
    for key in lay_keys(model, settings):
        boxes = list(boxes_of(key, layout))
        for kind, prefix in enumerate(("", *(f"optimizer.state.{kind}." for kind in KINDS))):
            name, dtype = prefix + key.name, "F32" if kind else "BF16"
            chunks = []
            for number, box in enumerate(boxes):
                start, size = torch.Size(box.starts), torch.Size(box.shape)
                chunks.append(of.ChunkStorageMetadata(start, size))
                places[of.MetadataIndex(name, start, number)] = _StorageInfo(*files.place(dtype, box.shape, min(kind, 1), kept=not kind))
            properties = of.TensorProperties(dtype=torch.float32 if kind else torch.bfloat16)
            said[name] = of.TensorStorageMetadata(properties, torch.Size(key.shape), chunks)
    for name in extra_states(model, settings):
        said[name] = of.BytesStorageMetadata()
        places[of.MetadataIndex(name)] = _StorageInfo(*files.place("U8", (1000,), 2, kept=False))
    files.write(folder)
    metadata = of.Metadata(said, planner_data={name: (name,) for name in said}, storage_data=places)
    with open(folder / ".metadata", "wb") as file:
        pickle.dump(metadata, file)
    (folder / "metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1, "common_backend": "torch"}')
    args = compose_args(
        model, Settings(Parallel(), model.sizes["vocab"], transformer_engine=True), facts, {"BF16": 1}, own_args(model, facts)
    )
    torch.save({"args": args, "iteration": 100, "checkpoint_version": 3.0}, folder / "common.pt")
    (root / "latest_checkpointed_iteration.txt").write_text("100")
    return len(places)


def boxes_of(key: Key, layout: Layout) -> Iterator[Box]:
    """The chunks of a key, as ranks save them."""
    shape = key.shape
    expert = ".experts.experts." in key.name
    cuts = [1] * len(shape)
    axis = len(shape) - 1 if key.name.endswith(COLUMNS) else int(expert)
    if expert:
        cuts[0] = shape[0]
    if prod(shape[int(expert) :]) > 1 and not key.name.endswith(WHOLE):
        ranks = layout.etp if expert else layout.tp
        cuts[axis] = min(ranks * (1 + key.name.endswith("linear_fc1.weight")), shape[axis])
    sides = [pairwise([size * number // count for number in range(count + 1)]) for size, count in zip(shape, cuts, strict=True)]
    for runs in product(*sides):
        yield Box(tuple([start for start, _ in runs]), tuple([stop for _, stop in runs]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, help="where files are written, a gigabyte or two (default: a temporary one)")
    parser.add_argument("--model", default="kimi-k2-1t", help="of " + ", ".join(MODELS))
    parser.add_argument("--ranks", type=int, default=512)
    parser.add_argument("--tp", type=int, default=8)
    parser.add_argument("--etp", type=int, default=4)
    parser.add_argument("--results", type=Path, default=FOLDER)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="entries-") as name:
        root = str(Path(name) / "run")
        entries = in_own_process("write_model", root, options.model, options.ranks, options.tp, options.etp)
        before, size_bytes = machine(), (Path(root) / "iter_0000100" / ".metadata").stat().st_size
        asked = ("load_it", "read_it", "inspect_it", "plan_it")
        what = ("pickle.load, into torch's classes", "reading .metadata alone", "convsvc inspect", "plan to Hugging Face")
        rows = [
            {
                "model": options.model,
                "entries": entries,
                "of MiB": size_bytes / MIB,
                "what": words,
                **in_own_process("measured", each, root),
            }
            for each, words in zip(asked, what, strict=True)
        ]
    save("entries", "A million entries in .metadata", rows, before, options.results)


def write_model(root: str, model: str, ranks: int, tp: int, etp: int) -> int:
    return write_training_checkpoint(Path(root), MODELS[model], Layout(ranks, tp, etp))


def measured(what: str, root: str) -> dict[str, float]:
    """What one of the functions below took in this process, which does nothing else."""
    began, cpu_began = perf_counter(), process_time()
    globals()[what](root)
    return {"s": perf_counter() - began, "cpu s": process_time() - cpu_began, "peak MiB": peak_bytes() / MIB}


def load_it(root: str) -> None:
    """What everybody else does, and what we never do: it runs what the file says."""
    import torch.distributed.checkpoint

    assert torch.distributed.checkpoint
    with open(os.path.join(root, "iter_0000100", ".metadata"), "rb") as file:
        pickle.load(file)


def read_it(root: str) -> None:
    from convsvc.formats.dcp.metadata import read_metadata

    read_metadata(os.path.join(root, "iter_0000100", ".metadata"))


def inspect_it(root: str) -> None:
    from convsvc.plan.inspect import inspect_checkpoint

    assert inspect_checkpoint(root)["complete"]


def plan_it(root: str) -> None:
    from convsvc.plan.planner import make_plan

    make_plan({"source": {"format": "megatron", "path": root}, "target": {"format": "huggingface", "path": root + "-back"}})


def in_own_process(function: str, *arguments: Any) -> Any:
    """What a function of this module answers in a fresh interpreter."""
    code = "import json, sys; from benchmarks import entries as e; print(json.dumps(getattr(e, sys.argv[1])(*json.loads(sys.argv[2]))))"
    command = [sys.executable, "-c", code, function, json.dumps(arguments)]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)


if __name__ == "__main__":
    main()
