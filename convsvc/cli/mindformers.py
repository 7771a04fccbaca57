"""The drop-ins for MindSpore Transformers' converters: their flags, our conversion.

    convsvc mindformers unify --mindspore_ckpt_dir output/checkpoint --src_strategy_dirs output/strategy --output_dir unified \\
        --file_suffix 1000_1 --filter_out_param_prefix adam_ --has_redundancy False
    convsvc mindformers reverse --model qwen3 --reversed --input_path unified/unified_safe --output_path hf --num_layers 28 ...
    convsvc mindformers to-megatron --load-dir unified/unified_safe --save-dir megatron --target-tensor-parallel-size 2 ...

The flags become a job, which runs here or, with `--submit URL`, on the service; `--json` prints what
came of it. Exit status 0, or 2 with one line on stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from convsvc.cli.drop_in import HelpShown, Parser, given, guarded, make_parents, numbers, run_here, size, submit
from convsvc.errors import JobError

# The source tools' names of models, and ours; every other name that we have is taken as it is.
MODELS = {
    "qwen3": "qwen3", "qwen3-moe": "qwen3-moe", "qwen3_moe": "qwen3-moe", "deepseekv3": "deepseek3", "deepseek3": "deepseek3",
    "llama": "llama2", "qwen2_5": "qwen25", "qwen2.5": "qwen25", "telechat": "telechat2", "telechat2": "telechat2",
}  # fmt: skip
DTYPES = ("bf16", "fp16", "fp32")
# Free `--key value` pairs of convert_weight.py, by the job's names.
SIZES = {
    "num_layers": "num_layers", "hidden_size": "hidden_size", "vocab_size": "vocab_size", "num_attention_heads": "num_attention_heads",
    "num_query_groups": "num_query_groups", "kv_channels": "kv_channels", "ffn_hidden_size": "ffn_hidden_size",
    "moe_ffn_hidden_size": "moe_ffn_hidden_size", "num_routed_experts": "num_moe_experts", "num_moe_experts": "num_moe_experts",
    "num_nextn_predict_layers": "mtp_num_layers", "mtp_num_layers": "mtp_num_layers", "first_k_dense_replace": "first_k_dense_replace",
    "q_lora_rank": "q_lora_rank", "kv_lora_rank": "kv_lora_rank", "qk_nope_head_dim": "qk_nope_head_dim",
    "qk_rope_head_dim": "qk_rope_head_dim", "v_head_dim": "v_head_dim", "n_kv_heads": "num_query_groups",
}  # fmt: skip
FLAGS = ("use_interleaved_weight_layout_mlp", "use_contiguous_weight_layout_attention")
# What the old converters wanted to be told, and the names of the tensors tell.
WITHOUT_EFFECT = ("qkv_concat", "is_lora", "telechat_type", "model_name")
PROGRAM = "mindformers"
EXAMPLE = "Example: convsvc mindformers reverse --model qwen3 --reversed --input_path /shared/ms --output_path /shared/hf --num_layers 28"


def main(argv: Sequence[str] | None = None) -> int:
    """Convert as `argv` (default: the command line) says. Returns 0, or 2 after one line on stderr."""
    return guarded(PROGRAM, lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def job_of(argv: Sequence[str]) -> dict[str, Any]:
    """The job that a command line describes. Pure: looks at no disk.

    >>> job = job_of(["reverse", "--model", "qwen3", "--reversed", "--input_path", "/in", "--output_path", "/out", "--num_layers=28"])
    >>> job["source"]
    {'format': 'mindformers', 'path': '/in', 'architecture': {'num_layers': 28}}

    Raises JobError for an unknown command or flag, a wrong value, or flags that contradict each other.
    """
    return _read(list(argv))[0]


def _run(argv: list[str]) -> int:
    job, args = _read(argv)
    if getattr(args, "ms2torch_ckpt_path", None):
        print(f"note: nothing is written at --ms2torch-ckpt-path {args.ms2torch_ckpt_path}: no intermediate is needed", file=sys.stderr)
    if args.submit:
        return submit(job, args.submit)
    make_parents(job["target"]["path"])
    return run_here(job, min(args.workers or 1, os.cpu_count() or 1), args.json)


def _read(argv: list[str]) -> tuple[dict[str, Any], argparse.Namespace]:
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{__doc__}\n{EXAMPLE}")
        raise HelpShown
    command = COMMANDS.get(argv[0])
    if command is None:
        raise JobError(f"there is no command {argv[0]!r}; there are {', '.join(COMMANDS)}")
    return command(argv[1:])


def _unify(argv: list[str]) -> tuple[dict[str, Any], argparse.Namespace]:
    """unified_safetensors.py: every tensor of the rank files that the strategy knows, whole, under its name."""
    parser = _parser("unify", "Join a checkpoint that is cut over ranks: parts of whole tensors, and the map of their names.")
    add = parser.add_argument
    add("--mindspore_ckpt_dir", required=True, metavar="DIR", help="the directory with rank_0, rank_1 ...")
    add("--src_strategy_dirs", metavar="PATH", help="the strategy files' directory, or one merged file (default: found beside)")
    add("--output_dir", required=True, metavar="DIR", help="unified_safe is written in it")
    add("--file_suffix", metavar="EPOCH_STEP", help="which of a rank's files, e.g. 1000_1 (default: the newest)")
    add("--format", choices=["safetensors"], default="safetensors", help="accepted; what is written is safetensors")
    add(
        "--has_redundancy",
        type=_truth,
        default=True,
        metavar="BOOL",
        help="False: what several ranks have alike was saved once; what the files say of it goes first",
    )
    add("--filter_out_param_prefix", metavar="PREFIX", help='leave out tensors whose names begin so, e.g. "adam_"')
    add("--max_process_num", type=size, metavar="N", help="processes at work (at most one a processor)")
    args = parser.parse_args(argv)
    args.workers = args.max_process_num
    source = {
        "format": "mindformers",
        "path": args.mindspore_ckpt_dir,
        "strategy_path": args.src_strategy_dirs,
        "file_suffix": args.file_suffix,
        "has_redundancy": args.has_redundancy,
        "leave_out_prefix": args.filter_out_param_prefix,
    }
    target = {"format": "mindformers", "path": os.path.join(args.output_dir, "unified_safe")}
    return {"model_type": "tensors", "source": given(source), "target": target, "options": {"on_exists": "overwrite"}}, args


def _reverse(argv: list[str]) -> tuple[dict[str, Any], argparse.Namespace]:
    """convert_weight.py: to Hugging Face with --reversed, else from it."""
    parser = _parser(
        "reverse", "Convert whole weights to Hugging Face (--reversed) or from it.", "sizes: --num_layers 28 or --num_layers=28"
    )
    add = parser.add_argument
    add("--model", required=True, metavar="MODEL", help=f"{', '.join(MODELS)}, or a model_type of `convsvc families`")
    add("--reversed", nargs="?", type=_truth, const=True, default=False, metavar="BOOL", help="to Hugging Face")
    add("--input_path", required=True, metavar="DIR", help="the checkpoint to read")
    add("--output_path", required=True, metavar="DIR", help="the directory to write")
    add("--dtype", choices=DTYPES, default="bf16", help="element type of what is written (default bf16)")
    add("--config_dir", metavar="DIR", help="a directory with the model's config.json, where there is one")
    add("--max_worker", type=size, metavar="N", help="processes at work (at most one a processor)")
    for name in FLAGS:
        add(f"--{name}", type=_truth, metavar="BOOL", help="as the model was trained; no checkpoint says it")
    args, free = parser.parse_known_args(_with_spaces(argv))
    args.workers = args.max_worker
    sizes = _sizes(free)
    flags = {name: getattr(args, name) for name in FLAGS}
    mindformers, hugging = {"format": "mindformers", **flags}, {"format": "huggingface"}
    source, target = (mindformers, hugging) if args.reversed else (hugging, mindformers)
    source |= {"path": args.input_path, "config_dir": args.config_dir if args.reversed else None, "architecture": sizes or None}
    target |= {"path": args.output_path, "config_dir": args.config_dir}
    if not args.reversed:
        # The configuration beside the weights is what is read; what is stated must agree with it.
        source.pop("architecture")
        check_stated(sizes, os.path.join(args.input_path, "config.json"))
    model_type = MODELS.get(args.model, args.model)
    check_model(model_type)
    # A router's bias is float32 there, whatever --dtype says.
    options = {"dtype": args.dtype, "widen_kept": True, "on_overflow": "note"}
    return {"model_type": model_type, "source": given(source), "target": given(target), "options": options}, args


def _to_megatron(argv: list[str]) -> tuple[dict[str, Any], argparse.Namespace]:
    """Megatron's tools/checkpoint/convert.py with loader core_mf and saver core, as MindSpore's guide calls it."""
    parser = _parser("to-megatron", "Convert whole weights to Megatron rank files of any tp and pp.")
    add = parser.add_argument
    add("--model-type", choices=["GPT"], default="GPT")
    add("--loader", choices=["core_mf"], default="core_mf")
    add("--saver", choices=["core", "mcore"], default="core")
    add("--load-dir", required=True, metavar="DIR", help="the whole checkpoint to read")
    add("--save-dir", required=True, metavar="DIR", help="the directory to write")
    add("--ms2torch-ckpt-path", metavar="DIR", help="accepted; no intermediate checkpoint is written")
    add("--target-tensor-parallel-size", type=size, default=1, metavar="N")
    add("--target-pipeline-parallel-size", type=size, default=1, metavar="N")
    add("--target-expert-parallel-size", type=size, default=1, metavar="N")
    add("--model-type-hf", metavar="MODEL", help="the model family, where the tensors do not show it")
    add("--config-dir", metavar="DIR", help="a directory with the model's config.json, where there is one")
    add("--target-params-dtype", choices=DTYPES, default="bf16", help="element type of what is written (default bf16)")
    for name in MEGATRON_SIZES:
        add("--" + name.replace("_", "-"), type=size, metavar="N")
    add("--true-vocab-size", type=size, metavar="N", help="tokens of the vocabulary, without padding rows")
    add("--padded-vocab-size", type=size, metavar="N", help="accepted; the tensors show it")
    add("--make-vocab-size-divisible-by", type=size, default=128, metavar="N", help="pad by this times tp (default 128)")
    add("--position-embedding-type", choices=["rope", "learned_absolute", "none"], default="rope")
    add("--normalization", choices=["RMSNorm", "LayerNorm"], default="RMSNorm")
    for name in ("add-bias-linear", "swiglu", "add-qkv-bias", "untie-embeddings-and-output-weights", "group-query-attention"):
        add(f"--{name}", action="store_true", help="accepted; the tensors show it")
    for name in (
        "seq-length",
        "max-position-embeddings",
        "loader-transformer-impl",
        "saver-transformer-impl",
        "megatron-path",
        "tokenizer-type",
    ):
        add(f"--{name}", metavar="X", help="accepted; no effect on the weights")
    add("--interleaved-mlp", type=_truth, metavar="BOOL", help="as the model was trained (default True, or as config.json says)")
    add("--contiguous-attention", type=_truth, metavar="BOOL", help="as the model was trained (default False, or as config.json says)")
    args = parser.parse_args(argv)
    args.workers = 1
    return _megatron_job(args), args


MEGATRON_SIZES = {
    "num_layers": "num_layers", "hidden_size": "hidden_size", "ffn_hidden_size": "ffn_hidden_size",
    "num_attention_heads": "num_attention_heads", "num_query_groups": "num_query_groups", "kv_channels": "kv_channels",
    "num_experts": "num_moe_experts", "moe_ffn_hidden_size": "moe_ffn_hidden_size",
}  # fmt: skip


def _megatron_job(args: argparse.Namespace) -> dict[str, Any]:
    if args.position_embedding_type != "rope" or args.normalization != "RMSNorm":
        raise JobError(
            f"--position-embedding-type {args.position_embedding_type} --normalization {args.normalization}: the models that are known "
            "rotate positions and have RMS norms",
            do="leave both out",
        )
    sizes = given({ours: getattr(args, theirs) for theirs, ours in MEGATRON_SIZES.items()})
    source = {
        "format": "mindformers",
        "path": args.load_dir,
        "config_dir": args.config_dir,
        "use_interleaved_weight_layout_mlp": args.interleaved_mlp,
        "use_contiguous_weight_layout_attention": args.contiguous_attention,
        "architecture": sizes or None,
    }
    target = {
        "format": "mindspeed-llm",
        "path": args.save_dir,
        "tensor_parallel_size": args.target_tensor_parallel_size,
        "pipeline_parallel_size": args.target_pipeline_parallel_size,
        "expert_parallel_size": args.target_expert_parallel_size,
        "make_vocab_size_divisible_by": args.make_vocab_size_divisible_by,
    }
    options = given({"dtype": args.target_params_dtype, "on_overflow": "note", "vocab_size": args.true_vocab_size})
    return given({"model_type": args.model_type_hf, "source": given(source), "target": target, "options": options})


Command = Callable[[list[str]], tuple[dict[str, Any], argparse.Namespace]]
COMMANDS: Mapping[str, Command] = {"unify": _unify, "reverse": _reverse, "to-megatron": _to_megatron}


def _parser(command: str, description: str, more: str = "") -> Parser:
    parser = Parser(prog=f"{PROGRAM} {command}", allow_abbrev=False, description=description, epilog=more)
    parser.add_argument("--submit", metavar="URL", help="run on the convsvc service at URL instead of here")
    parser.add_argument("--json", action="store_true", help="print what came of it as JSON")
    return parser


def _with_spaces(argv: Sequence[str]) -> list[str]:
    """`--key=value` as two words, as `--key value` is."""
    return [part for word in argv for part in (word.split("=", 1) if word.startswith("--") and "=" in word else [word])]


def _sizes(free: Sequence[str]) -> dict[str, int]:
    """The free pairs as the job's sizes. Raises JobError for a name or a value that is not known."""
    sizes: dict[str, int] = {}
    words = list(free)
    while words:
        name = words.pop(0)
        key = name.removeprefix("--")
        if not name.startswith("--") or not words or words[0].startswith("--"):
            raise JobError(f"{name}: not --key value", do="write for example --num_layers 28")
        value = words.pop(0)
        if key in WITHOUT_EFFECT:
            continue
        if key not in SIZES:
            raise JobError(f"--{key}: there is no such size; there are {', '.join(SIZES)}")
        try:
            sizes[SIZES[key]] = numbers(value)[0]
        except argparse.ArgumentTypeError as error:
            raise JobError(f"--{key}: {error}") from None
    return sizes


def check_model(name: str) -> None:
    """Raises JobError for a model that neither the source tool nor we know."""
    if name not in MODELS.values():
        from convsvc.families import FAMILIES

        if name not in FAMILIES:
            raise JobError(f"--model {name}: there is no such model; there are {', '.join({**MODELS, **FAMILIES})}")


def check_stated(sizes: Mapping[str, int], config: str) -> None:
    """Raises JobError for sizes that a configuration says otherwise. One that is not here (on the service's side) is not looked at."""
    if not sizes or not os.path.isfile(config):
        return
    from convsvc.dialects.json_files import read_json
    from convsvc.dialects.mindformers.seen_sizes import ALIASES
    from convsvc.roots import RootedPath

    said = read_json(RootedPath(config))
    faults = [
        f"--{name} {value}, {config} says {alias} {said[alias]}"
        for name, value in sizes.items()
        for alias in (name, *ALIASES.get(name, ()))
        if isinstance(said.get(alias), int) and said[alias] != value
    ]
    if faults:
        raise JobError("what is stated contradicts the checkpoint", facts=faults, do="leave these out: they are read from there")


def _truth(text: str) -> bool:
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


@click.command(
    "mindformers",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    epilog=EXAMPLE,
)
@click.argument("argv", nargs=-1, type=click.UNPROCESSED)
def command(argv: tuple[str, ...]) -> int:
    """unify, reverse, to-megatron: see `convsvc mindformers --help`."""
    return main(argv)


if __name__ == "__main__":
    raise SystemExit(main())
