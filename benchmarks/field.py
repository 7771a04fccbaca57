"""What becomes of published checkpoints: each is planned to every framework's files and to Hugging Face, from its headers alone.

    python -m benchmarks.field DIRECTORY                     a table: planned, or the first line of the refusal
    python -m benchmarks.field DIRECTORY --only NAME,NAME    some of them
    python -m benchmarks.field DIRECTORY --processes 2       so many of them at a time
    python -m benchmarks.field DIRECTORY --only NAMES --keep tests/field      their metadata for the tests: names, dtypes, shapes

DIRECTORY holds metadata of published checkpoints: NAME/config.json beside NAME/*.index.json.gz, and configs/NAME.json with
configs/NAME.hf_quant_config.json.gz where the checkpoint is ModelOpt's. Neither has shapes. They are those of transformers' class for the
configuration, on the meta device and under the names that it saves; where it has no such class, those of the family's own tables, so
that names are all that is shown. Quantised weights are made of them as the configuration says that they are.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from convsvc.dialects.huggingface.layout import lay_model
from convsvc.errors import ConvsvcError, JobError
from convsvc.families import find_family, text_facts
from convsvc.formats import safetensors
from convsvc.formats.base import TensorSpec
from convsvc.models.detect import TEXT_PARTS
from convsvc.models.facts import Facts
from convsvc.plan.planner import make_plan

# By the column's title: both frameworks' rank files, the way that needs no place in a framework, and torch's chunks.
TARGETS: Mapping[str, Mapping[str, Any]] = {
    "MindSpeed-LLM": {"format": "mindspeed-llm"},
    "Megatron": {"format": "megatron"},
    "Hugging Face": {"format": "huggingface"},
    "DCP": {"format": "dcp"},
}
DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
Shapes = dict[str, tuple[int, ...]]
PACKED_PARTS = ("weight_packed", "weight_scale", "weight_shape")
GPTQ_PARTS = ("qweight", "qzeros", "scales", "g_idx")


@dataclass(frozen=True, slots=True)
class Published:
    """A checkpoint's metadata: the configuration's text, the index's (file names by tensor names, or a text that is none), its tensors."""

    name: str
    config: str | None
    index: Mapping[str, str] | str | None
    quantised: Mapping[str, Any]
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]

    def write(self, folder: Path) -> Path:
        """A directory with the headers; the weights are holes."""
        root = folder / self.name
        root.mkdir(parents=True)
        if self.config is not None:
            (root / "config.json").write_text(self.config)
        if isinstance(self.index, str):
            (root / "model.safetensors.index.json").write_text(self.index)
        weight_map = self.index if isinstance(self.index, Mapping) else dict.fromkeys(self.tensors, "model.safetensors")
        files: dict[str, list[TensorSpec]] = {}
        for name, (dtype, shape) in self.tensors.items():
            files.setdefault(Path(weight_map.get(name, "model.safetensors")).stem + ".safetensors", []).append(
                TensorSpec(name, dtype, shape)
            )
        for file, specs in files.items():
            skeleton = safetensors.plan_skeleton(specs)
            with open(root / file, "wb") as opened:
                opened.write(skeleton.segments[0][1])
                opened.truncate(skeleton.size_bytes)
        if isinstance(self.index, Mapping) and len(files) > 1:
            listed = {spec.name: file for file, specs in files.items() for spec in specs}
            (root / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))
        return root


def list_published(directory: Path, only: set[str]) -> list[Path]:
    """Where the metadata of every checkpoint lies, or of those named: a folder with an index, or a configuration alone."""
    folders = [folder for folder in sorted(directory.iterdir()) if folder.is_dir() and any(folder.glob("*.index.json.gz"))]
    found = [*folders, *sorted((directory / "configs").glob("*.json"))]
    return [path for path in found if not only or _name_of(path) in only]


def _name_of(path: Path) -> str:
    return path.name.removesuffix(".json")


def read_published(path: Path) -> Published:
    """The checkpoint whose metadata lies there (`list_published`)."""
    if path.is_dir():
        config = path / "config.json"
        indexes = sorted(path.glob("*.index.json.gz"))
        return _complete(path.name, config.read_text() if config.exists() else None, _read_index(indexes), {})
    beside = path.with_name(_name_of(path) + ".hf_quant_config.json.gz")
    quantised = json.loads(gzip.decompress(beside.read_bytes())) if beside.exists() else {}
    return _complete(_name_of(path), path.read_text(), None, quantised)


def _read_index(paths: list[Path]) -> Mapping[str, str] | str:
    """The index that transformers would take: of safetensors before that of `.bin`."""
    text = gzip.decompress(min(paths, key=lambda path: (not path.name.startswith("model."), len(path.name))).read_bytes()).decode()
    try:
        found = json.loads(text)
        return {str(name): str(file) for name, file in found["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return text


def _complete(name: str, config: str | None, index: Mapping[str, str] | str | None, quantised: Mapping[str, Any]) -> Published:
    try:
        values = json.loads(config or "{}")
    except ValueError:
        values = {}
    shapes = _shapes(values, list(index) if isinstance(index, Mapping) else []) if values else {}
    dtype = DTYPES.get(str(values.get("torch_dtype", values.get("dtype"))), "BF16")
    if isinstance(index, Mapping):
        kinds = {each: _stored(each, shapes, dtype, index, values) for each in index}
    elif isinstance(index, str):
        kinds = {}
    else:
        # Something must lie there: a directory without weights is refused for that.
        shapes = shapes or {"model.embed_tokens.weight": (8, 8)}
        kinds = dict(_quantise({each: (dtype, shape) for each, shape in shapes.items()}, values, quantised))
    return Published(name, config, index, quantised, kinds)


def _stored(name: str, shapes: Shapes, dtype: str, names: Mapping[str, str], config: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    """An index's tensor: the class's shape, or a small one; its dtype by what quantisers store beside it."""
    block = (config.get("quantization_config") or {}).get("weight_block_size") or (128, 128)
    if name.endswith("_scale_inv") and (shape := shapes.get(name.removesuffix("_scale_inv"))):
        return "F32", (-(-shape[0] // block[0]), -(-shape[1] // block[1]))
    if name.endswith(("_blocks", "_scales")) and (shape := shapes.get(name.rpartition("_")[0])):
        return "U8", _of_mxfp4(name, shape)
    module, _, part = name.rpartition(".")
    if part in GPTQ_PARTS and f"{module}.g_idx" in names and (shape := shapes.get(f"{module}.weight")):
        return _of_gptq(part, shape, config.get("quantization_config") or {})
    if part in PACKED_PARTS and f"{module}.weight_shape" in names and (shape := _packed_of(module, shapes)):
        return _of_packed(part, shape, config.get("quantization_config") or {})
    if name.removesuffix(".weight") + ".scales" in names:
        return "U32", (8, 8)
    shape = shapes.get(name, (8,))
    return "F8_E4M3" if name + "_scale_inv" in names else dtype if name in shapes else _by_name(name, dtype), shape


def _of_mxfp4(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """gpt-oss's experts lie the other way round where they are quantised: 16 bytes, or one scale, for 32 inputs."""
    experts, inputs, outputs = shape
    blocks = (experts, outputs, inputs // 32)
    return (*blocks, 16) if name.endswith("_blocks") else blocks


def _of_gptq(part: str, shape: tuple[int, ...], stated: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    """Of a matrix [out, in]: whole words of 32 bits along the inputs, the zeros' along the outputs."""
    outputs, inputs = shape
    bits = stated.get("bits", 4)
    groups = -(-inputs // (stated.get("group_size") or 128))
    return {
        "qweight": ("I32", (inputs * bits // 32, outputs)),
        "qzeros": ("I32", (groups, outputs * bits // 32)),
        "scales": ("F16", (groups, outputs)),
        "g_idx": ("I32", (inputs,)),
    }[part]


def _packed_of(module: str, shapes: Shapes) -> tuple[int, ...] | None:
    """The shape of a linear layer that compressed-tensors packs, of an expert's that the class stacks with the others, too."""
    if found := shapes.get(f"{module}.weight"):
        return found
    experts = re.fullmatch(r"(.*\.experts\.)\d+\.(gate|up|down)_proj", module)
    stacked = shapes.get(f"{experts[1]}{'down_proj' if experts[2] == 'down' else 'gate_up_proj'}") if experts else None
    return None if experts is None or stacked is None else (stacked[1] // (1 if experts[2] == "down" else 2), stacked[2])


def _of_packed(part: str, shape: tuple[int, ...], stated: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    """Of a matrix [out, in]: eight numbers of four bits in a word, a scale for each group of inputs."""
    weights = next(iter(stated.get("config_groups", {}).values()), {}).get("weights", {})
    rows, columns = shape
    scales = ("BF16", (rows, -(-columns // (weights.get("group_size") or 128))))
    return {"weight_packed": ("I32", (rows, columns * weights.get("num_bits", 4) // 32)), "weight_scale": scales}.get(part, ("I32", (2,)))


def _by_name(name: str, dtype: str) -> str:
    """The dtype of what a quantiser calls so."""
    if name.endswith(("qweight", "qzeros", "g_idx", "weight_packed")):
        return "I32"
    if name.endswith((".scales", ".biases", "_scale", "absmax", "SCB", "quant_map")):
        return "F32"
    return "U8" if name.endswith("_blocks") or "quant_state" in name else dtype


def _shapes(config: Mapping[str, Any], listed: list[str]) -> Shapes:
    """Names and shapes by transformers' class, and by the family's tables what that has not; nothing where neither knows the model.

    `listed` are an index's names: then also of what the family reads and does not write. A class may call a tensor otherwise by now.
    """
    known: Shapes = {}
    try:
        known = _of_class(config, listed)
    except Exception as error:
        print(f"  no class for {config.get('architectures')}: {type(error).__name__}", file=sys.stderr)
    return known if known and known.keys() >= set(listed) else {**_of_tables(config, listed), **known}


def _of_tables(config: Mapping[str, Any], listed: list[str]) -> Shapes:
    facts = Facts(config, "config.json")
    try:
        try:
            model = find_family(None, facts).build(facts)
        except JobError:
            # Where the text decoder lies in a model that has no class here, nobody can tell: under the prefix that most have.
            names = (f"language_model.{each}" for each in ("model.embed_tokens.weight", "model.layers.0.", "lm_head.weight"))
            inner = text_facts(None, facts, listed or list(names))
            model = find_family(None, inner).build(inner)
        named = set(listed)
        if named and 2 * sum(laid.name in named for laid in lay_model(model).kinds) < len(named):
            inner = text_facts(None, facts, listed)
            model = find_family(None, inner).build(inner)
    except ConvsvcError:
        return {}
    return {laid.name: laid.shape for laid in lay_model(model).kinds if laid.written or listed}


def _of_class(config: Mapping[str, Any], listed: list[str]) -> Shapes:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = importlib.import_module("transformers")
        loading = importlib.import_module("transformers.core_model_loading")
        values = {name: value for name, value in config.items() if name != "quantization_config"}
        kind = getattr(library, config["architectures"][0])
        if config.get("model_type", kind.config_class.model_type) in {*library.CONFIG_MAPPING.keys()} - {kind.config_class.model_type}:
            raise TypeError(f"the configuration is a {config['model_type']}, the class another's")
        made = kind.config_class.from_dict(values)
        with torch.device("meta"):
            model = kind(made)
        state = model.state_dict()
        if made.tie_word_embeddings and "lm_head.weight" not in listed:
            state.pop("lm_head.weight", None)
        stored = loading.revert_weight_conversion(model, state)
    return {name: tuple(each.shape) for name, each in stored.items()}


def _quantise(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], config: Mapping[str, Any], beside: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    """The tensors of linear layers as the configuration says that they are quantised."""
    text = config.get("text_config")
    stated = config.get("quantization_config") or (text.get("quantization_config") if isinstance(text, Mapping) else None) or {}
    quantisation = beside.get("quantization", {})
    method = str(quantisation.get("quant_algo") or stated.get("quant_algo") or stated.get("format") or stated.get("quant_method") or "")
    kept = [*(stated.get("modules_to_not_convert") or []), *(stated.get("ignore") or []), *(quantisation.get("exclude_modules") or [])]
    for name, (dtype, shape) in tensors.items():
        is_linear = name.endswith(".weight") and len(shape) == 2 and not re.search(r"embed|lm_head|norm|conv|\.gate\.|router", name)
        if method == "mxfp4" and len(shape) == 3 and name.endswith("_proj"):
            yield from ((name + end, ("U8", _of_mxfp4(name + end, shape))) for end in ("_blocks", "_scales"))
        elif not method or not is_linear or any(isinstance(each, str) and _names(each, name) for each in kept):
            yield name, (dtype, shape)
        else:
            yield from _encoded(name, shape, method.lower(), stated.get("weight_block_size"))


def _names(pattern: str, name: str) -> bool:
    """Whether what is kept names a tensor: part of its name, with stars for anything."""
    return re.search(".*".join(map(re.escape, pattern.strip("*").split("*"))), name) is not None


def _encoded(name: str, shape: tuple[int, ...], method: str, block: list[int] | None) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    rows, columns = shape
    if "nvfp4" in method or "mixed" in method:
        yield name, ("U8", (rows, columns // 2))
        yield name + "_scale", ("F8_E4M3", (rows, columns // 16))
        yield name + "_scale_2", ("F32", ())
    elif method == "mxfp4":
        yield name.removesuffix(".weight") + "_blocks", ("U8", (rows, columns // 32, 16))
        yield name.removesuffix(".weight") + "_scales", ("U8", (rows, columns // 32))
    elif method == "fp8" and block:
        yield name, ("F8_E4M3", shape)
        yield name + "_scale_inv", ("F32", (-(-rows // block[0]), -(-columns // block[1])))
    else:
        yield name, ("F8_E4M3", shape)
        yield name + "_scale", ("F32", (rows, 1) if "float-quantized" in method else ())


def outcome(root: Path, target: Mapping[str, Any]) -> str:
    """planned, with the family; or the first line of the refusal, without the path.

    What is refused in a line that names the way for its text decoder alone is planned that way.
    """
    place = {**target, "path": str(root.parent / "to")}
    source: dict[str, Any] = {"format": "huggingface", "path": str(root)}
    try:
        return f"planned: {make_plan({'source': source, 'target': place}).model_type}"
    except ConvsvcError as error:
        said = error
    if "source.modules" not in str(said):
        return _first_line(said, root)
    try:
        return f"planned: {make_plan({'source': source | {'modules': ['text_decoder']}, 'target': place}).model_type}, its text decoder"
    except ConvsvcError as error:
        return _first_line(error, root)


def _first_line(error: ConvsvcError, root: Path) -> str:
    return "refused: " + str(error).splitlines()[0].replace(f"{root}/", "").replace(str(root), root.name)


def keep(published: Published, folder: Path) -> None:
    """The checkpoint's metadata in one file."""
    record = {
        "config": published.config,
        "index": published.index,
        "tensors": {name: [dtype, list(shape)] for name, (dtype, shape) in published.tensors.items()},
    }
    folder.mkdir(exist_ok=True)
    (folder / f"{published.name}.json.gz").write_bytes(gzip.compress(json.dumps(record, sort_keys=True).encode(), mtime=0))


def read_kept(path: Path) -> Published:
    """What `keep` wrote."""
    record = json.loads(gzip.decompress(path.read_bytes()))
    tensors = {name: (dtype, tuple(shape)) for name, (dtype, shape) in record["tensors"].items()}
    return Published(path.name.removesuffix(".json.gz"), record["config"], record["index"], {}, tensors)


def shortened(published: Published, layers: int) -> Published:
    """The checkpoint with so few layers, so that its metadata is small; its configuration says so."""
    values = json.loads(published.config or "{}")
    names = [name for name in ("num_hidden_layers", "num_layers", "n_layer") if isinstance(values.get(name), int)]
    pattern = re.compile(r"\.(?:layers|h)\.(\d+)\.")
    tensors = {name: each for name, each in published.tensors.items() if not (at := pattern.search(name)) or int(at[1]) < layers}
    index = (
        {name: file for name, file in published.index.items() if name in tensors}
        if isinstance(published.index, Mapping)
        else published.index
    )
    parts = {name: {**values[name], "num_hidden_layers": layers} for name in TEXT_PARTS if isinstance(values.get(name), dict)}
    return replace(published, config=json.dumps(values | dict.fromkeys(names, layers) | parts), index=index, tensors=tensors)


def plan_published(path: Path) -> tuple[str, dict[str, str]]:
    """The checkpoint's name, and what becomes of it by the columns' titles."""
    published = read_published(path)
    with tempfile.TemporaryDirectory(prefix="field-") as folder:
        root = published.write(Path(folder))
        return published.name, {title: outcome(root, target) for title, target in TARGETS.items()}


def shown(name: str, outcomes: Mapping[str, str]) -> str:
    """A table's row; a refusal is said once."""
    family = next((said.removeprefix("planned: ") for said in outcomes.values() if said.startswith("planned")), "")
    cells = ["planned" if said.startswith("planned") else said for said in outcomes.values()]
    cells = ["the same" if number and cell != "planned" and cell in cells[:number] else cell for number, cell in enumerate(cells)]
    return f"| {name} | {family} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--only", default="", help="names, with commas between")
    parser.add_argument("--processes", type=int, default=1, help="so many checkpoints at a time")
    parser.add_argument("--keep", type=Path, help="write their metadata there, for tests")
    parser.add_argument("--layers", type=int, help="with --keep: of that many layers only")
    given = parser.parse_args()
    paths = list_published(given.directory, set(filter(None, given.only.split(","))))
    if given.keep:
        for published in map(read_published, paths):
            keep(shortened(published, given.layers) if given.layers else published, given.keep)
        return
    print("| checkpoint | family | " + " | ".join(TARGETS) + " |\n|---|---|" + "---|" * len(TARGETS))
    planned = dict.fromkeys([*TARGETS, "any of them"], 0)
    with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
        for name, outcomes in pool.map(plan_published, paths):
            print(shown(name, outcomes), flush=True)
            ways = [title for title, said in outcomes.items() if said.startswith("planned")]
            for title in [*ways, *(["any of them"] if ways else [])]:
                planned[title] += 1
    print(f"\nPlanned, of {len(paths)}: " + ", ".join(f"{title} {count}" for title, count in planned.items()))


if __name__ == "__main__":
    main()
