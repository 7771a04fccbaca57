"""MindSpore Transformers' guide at the full shape of Qwen3-0.6B, its head untied: unify what lies on ranks, reverse with 16 workers.

    python -m benchmarks.mindformers                     1.5 GB a checkpoint, four of them
    ... --directory /disk                                where the files go (default: a temporary directory)

The largest process's resident memory is the figure: at most 512 MiB. What comes back is compared with the source, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.measuring import Measured, empty_caches, machine, run_module, tree_bytes
from benchmarks.models import write_model
from benchmarks.results import FOLDER, MB, MIB, save
from convsvc.formats import safetensors

QWEN3_06B: Mapping[str, Any] = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "num_hidden_layers": 28,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
# tp, pp, dp, optimizer shards
LAYOUT = {
    "tensor_parallel_size": 2, "pipeline_parallel_size": 2, "data_parallel_size": 2, "optimizer_weight_shard_size": 2,
    "remove_redundancy": True,
}  # fmt: skip
WORKERS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--results", type=Path, default=FOLDER)
    options = parser.parse_args()
    before = machine()
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="mindformers-") as name:
        rows = measure(Path(name), QWEN3_06B)
    save("mindformers", "MindSpore Transformers' guide, Qwen3-0.6B", rows, before, options.results)


def measure(root: Path, config: Mapping[str, Any], *, cold: bool = True) -> list[dict[str, Any]]:
    """A row for each step. Raises AssertionError if what comes back is another model."""
    source = root / "hf"
    write_model(source, config)
    cut = {"format": "mindformers", "path": str(root / "trained"), **LAYOUT}
    job = json.dumps({"source": {"format": "huggingface", "path": str(source)}, "target": cut})
    rows = [row("to 8 ranks", source, run_module("benchmarks.one_job", job, 2))]
    if cold:
        empty_caches(root)
    trained = ["--mindspore_ckpt_dir", root / "trained/checkpoint", "--src_strategy_dirs", root / "trained/strategy"]
    flags = ["--output_dir", root / "unified", "--file_suffix", "1_1", "--filter_out_param_prefix", "adam_", "--has_redundancy", "False"]
    rows.append(row("unify", source, run_module("convsvc.cli.mindformers", "unify", *trained, *flags, "--max_process_num", 2)))
    if cold:
        empty_caches(root)
    places = ["--input_path", root / "unified/unified_safe", "--output_path", root / "back"]
    rows.append(
        row(
            "reverse",
            source,
            run_module("convsvc.cli.mindformers", "reverse", "--model", "qwen3", "--reversed", *places, *sizes_of(config)),
        )
    )
    assert contents(source) == contents(root / "back")
    return rows


def sizes_of(config: Mapping[str, Any]) -> list[str]:
    """The configuration as the guide's flags."""
    names = {
        "num_layers": "num_hidden_layers", "num_attention_heads": "num_attention_heads", "num_query_groups": "num_key_value_heads",
        "kv_channels": "head_dim", "ffn_hidden_size": "intermediate_size",
    }  # fmt: skip
    pairs = {flag: config[field] for flag, field in names.items()} | {"max_worker": WORKERS}
    return [word for flag, value in pairs.items() for word in (f"--{flag}", str(value))]


def row(step: str, source: Path, done: Measured) -> dict[str, Any]:
    moved = 2 * tree_bytes(source)
    return {"step": step, "s": done.wall_s, "MB/s": moved / 2 / MB / done.wall_s, "CPU s/GB": done.cpu_s / (moved / 1000 / MB),
            "peak MiB": done.peak_bytes / MIB}  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    """Every tensor's digest, by the bytes of the files."""
    from hashlib import sha256

    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            for tensor in safetensors.read_index(str(path)).tensors:
                file.seek(tensor.file_offset)
                found[tensor.name] = sha256(file.read(tensor.size_bytes)).digest()
    return found


if __name__ == "__main__":
    main()
