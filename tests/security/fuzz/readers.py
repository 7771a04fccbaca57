"""What is read, and how hostile input for it is made. A reader answers, or raises; what it may raise is a ConvsvcError."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from convsvc.dialects import source_of
from convsvc.dialects.huggingface.job import HuggingFaceSource
from convsvc.dialects.mindspeed_llm.job import MindSpeedSource
from convsvc.formats import FORMATS, format_of
from convsvc.formats.torch_tensors import read_torch_pickle
from convsvc.formats.torch_tree import Namer
from convsvc.plan.planner import make_plan
from convsvc.roots import ANYWHERE
from convsvc.spec import dump_job, parse_job
from tests.roundtrip.any_family import CONFIGS
from tests.security.fuzz import corpus
from tests.security.fuzz.mutate import as_text, change_bytes, change_value
from tests.security.fuzz.pickles import change_pickle, opcodes_of
from tests.security.fuzz.zips import change_zip, pack

JSON_WORDS = (
    b"{", b"}", b"[", b"]", b'"', b":", b",", b"null", b"true", b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-", b"0" * 30, b"9" * 5000,
    b"\\u0000", b"\\ud800", b'"dtype"', b'"shape"', b'"data_offsets"', b'"__metadata__"', b"\xff", b"\xef\xbb\xbf", b"[" * 2000,
    b'{"a":' * 800,
)  # fmt: skip
YAML_WORDS = (
    b"&a ", b"*a", b"- ", b": ", b"? ", b"!!", b"!!python/object/apply:os.system [id]\n", b"!!binary x", b"!!set {a}", b"!!omap [a: 1]",
    b"|\n", b">", b"---\n", b"...\n", b"<<: *a\n", b"'", b'"', b"\t", b"#", b"%YAML 9.9\n", b"2001-99-99", b"0b2", b"190:20:30", b".inf",
    b"{", b"[" * 500, b"~", b"0x", b"1_0", b"\xff\xfe", b"\x00",
)  # fmt: skip
SAFETENSORS_NAMES = ("dtype", "shape", "data_offsets", "__metadata__", "a")
DTYPES = ("F32", "BF16", "F8_E4M3", "I64", "BOOL", "F4", "f32", "C64")


@dataclass(frozen=True, slots=True)
class Reader:
    """`make` draws an input, `feed` reads it; `share` of two hundred inputs go to it."""

    name: str
    share: int
    make: Callable[[Random], Any]
    feed: Callable[[Any], None]


def readers(folder: Path) -> tuple[Reader, ...]:
    """All of them; their files lie in `folder`, best in memory."""
    return (
        _safetensors(folder / "one.safetensors"),
        *_torch(folder / "one.pt"),
        _index_json(folder / "indexed"),
        _tracker(folder / "tracked"),
        _job_text(),
        *_checkpoints(folder),
    )


class Slot:
    """A file that is written over and over again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def write(self, data: bytes) -> None:
        os.pwrite(self._descriptor, data, 0)
        os.truncate(self._descriptor, len(data))


def _safetensors(path: Path) -> Reader:
    files, slot = corpus.safetensors_files(), Slot(path)
    stops = [8 + int.from_bytes(data[:8], "little") for data in files]
    parts = [(json.loads(data[8:stop]), data[stop:]) for data, stop in zip(files, stops, strict=True)]

    def make(rng: Random) -> bytes:
        if rng.random() < 0.4:
            return change_bytes(rng, rng.choice(files), files, JSON_WORDS)
        header, data = rng.choice(parts)
        text = as_text(rng, change_value(rng, header, (*SAFETENSORS_NAMES, *DTYPES)), JSON_WORDS)
        size = len(text) if rng.random() < 0.97 else rng.choice((0, 1, len(text) - 1, len(text) + 1, 100_000_001, 2**63, 2**64 - 1)) % 2**64
        return size.to_bytes(8, "little") + text + data

    return Reader("safetensors", 41, make, lambda data: _read(slot, data, "safetensors"))


def _read(slot: Slot, data: bytes, name: str) -> None:
    slot.write(data)
    format_of(slot.path)
    index = FORMATS[name].read_index(slot.path)
    assert all(each.file_offset + each.size_bytes <= index.size_bytes for each in index.tensors), "a tensor beyond the file"


def _torch(path: Path) -> tuple[Reader, Reader, Reader]:
    files, slot = corpus.torch_files(), Slot(path)
    zips = [data for data in files if data.startswith(b"PK")]
    programs = [opcodes_of(each) for each in corpus.pickles()]
    records = {f"archive/data/{number}": bytes(64) for number in range(4)}

    def make_file(rng: Random) -> bytes:
        return change_zip(rng, zips) if rng.random() < 0.85 else change_bytes(rng, rng.choice(files), files, ())

    def make_packed(rng: Random) -> bytes:
        return pack({"archive/data.pkl": change_pickle(rng, programs), "archive/byteorder": b"little", **records})

    def feed_pickle(data: bytes) -> None:
        Namer("x.pt", lambda tensor: tensor.place()[0]).name_all([read_torch_pickle(data, "x.pt")])

    def feed_file(data: bytes) -> None:
        _read(slot, data, "torch_zip")

    return (
        Reader("torch zip", 34, make_file, feed_file),
        Reader("torch zip with a changed pickle", 20, make_packed, feed_file),
        Reader("pickle", 54, lambda rng: change_pickle(rng, programs), feed_pickle),
    )


def _index_json(folder: Path) -> Reader:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    data = corpus.safetensors_files()
    for number in range(2):
        (folder / f"model-{number}.safetensors").write_bytes(data[number])
    names = ["model-0.safetensors", "model-1.safetensors"]
    weights = dict.fromkeys(("a", "b.weight", "c", "d"), names[0]) | {f"model.layers.{n}.w": names[1] for n in range(8)}
    index = {"metadata": {"total_size": 100}, "weight_map": weights}
    slot, source = Slot(folder / "model.safetensors.index.json"), HuggingFaceSource(format="huggingface", path=str(folder))

    def make(rng: Random) -> bytes:
        return as_text(rng, change_value(rng, index, (*names, "weight_map", "a", "../one.pt", ".", "/dev/zero", "a/b")), JSON_WORDS)

    def feed(data: bytes) -> None:
        slot.write(data)
        source_of("huggingface").open(source, ANYWHERE)

    return Reader("index.json", 9, make, feed)


def _tracker(folder: Path) -> Reader:
    rank = folder / "release" / "mp_rank_00"
    rank.mkdir(parents=True)
    (rank / "model_optim_rng.pt").write_bytes(corpus.torch_files()[0])
    slot = Slot(folder / "latest_checkpointed_iteration.txt")
    source = MindSpeedSource(format="mindspeed-llm", path=str(folder))
    words = (b"release", b"0", b"9" * 400, b"\n", b" ", b"\xff", b"\x00", b"-1", b"/", b"..", "٣".encode(), "²".encode())

    def feed(data: bytes) -> None:
        slot.write(data)
        source_of("mindspeed-llm").open(source, ANYWHERE)

    return Reader("tracker", 9, lambda rng: change_bytes(rng, rng.choice((b"release", b"1000", b"")), words, words), feed)


JOB: dict[str, Any] = {
    "name": "n", "model_type": "llama2", "priority": 1, "webhook": {"url": "https://example.org/x"},
    "source": {"format": "mindspeed-llm", "path": "/in", "lora": {"r": 8, "alpha": 16.0, "target_modules": ["q"]}, "iteration": "release",
               "architecture": {"hidden_size": 8}},
    "target": {"format": "mindspeed-llm", "path": "/out", "tensor_parallel_size": 2, "num_layer_list": [1, 2], "noop_layers": [0],
               "schedules_method": None, "moe_grouped_gemm": True},
    "options": {"dtype": "bf16", "num_layers": 2, "max_shard_size": "5GB", "verify": "digest", "on_exists": "error"},
}  # fmt: skip


def _job_text() -> Reader:
    import yaml

    from convsvc.spec import Job

    names = tuple(_property_names(Job.model_json_schema()))
    texts = [yaml.safe_dump(JOB).encode(), yaml.safe_dump(JOB, default_flow_style=True).encode()]

    def make(rng: Random) -> bytes:
        kind = rng.random()
        if kind < 0.03:
            levels, (opening, closing) = rng.choice((100, 900, 5000)), rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
            return opening * levels + b"1" + closing * rng.choice((levels, levels - 1))
        if kind < 0.7:
            return as_text(rng, change_value(rng, JOB, names), JSON_WORDS)
        return change_bytes(rng, rng.choice(texts), texts, YAML_WORDS)

    def feed(data: bytes) -> None:
        job = parse_job(data)
        again = json.dumps(dump_job(job), allow_nan=False)  # what the store and the answer are made of
        assert parse_job(again.encode("utf-8")) == job, "a job that changes when it is written and read"
        assert "\\u0000" not in again, "a NUL, which PostgreSQL does not take"

    return Reader("job", 28, make, feed)


def _property_names(schema: Any) -> set[str]:
    if not isinstance(schema, dict):
        return set()
    return set(schema.get("properties", {})) | {name for each in schema.get("$defs", {}).values() for name in _property_names(each)}


def _checkpoints(folder: Path) -> tuple[Reader, ...]:
    """config.json, saved args and job fields, through the whole planner, beside a small checkpoint of every family."""
    configs = {family: corpus.write_checkpoint(family, folder / family) for family in CONFIGS}
    names = sorted({name for config in configs.values() for name in config} | {"architectures", "quantization_config", "rope_theta"})
    slots = {family: Slot(folder / family / "config.json") for family in configs}

    def make_config(rng: Random) -> tuple[str, str, bytes]:
        family = rng.choice(list(configs))
        stated = family if rng.random() < 0.7 else None
        return (
            family,
            json.dumps(_job(rng, folder / family, folder, stated)),
            as_text(rng, change_value(rng, configs[family], names), JSON_WORDS),
        )

    def feed_config(drawn: tuple[str, str, bytes]) -> None:
        family, job, text = drawn
        slots[family].write(text)
        try:
            make_plan(json.loads(job))
        finally:
            slots[family].write(json.dumps(configs[family]).encode())

    def make_job(rng: Random) -> str:
        family = rng.choice(list(configs))
        job = _job(rng, folder / family, folder, family)
        sizes = _SIZES if job["target"]["format"] == "mindspeed-llm" else {"adapter_only": False}
        options = change_value(rng, _OPTIONS, ()) if rng.random() < 0.5 else {}
        return json.dumps({**job, "target": {**job["target"], **_few(rng, change_value(rng, sizes, ()))}, "options": _few(rng, options)})

    return (
        Reader("config.json", 3, make_config, feed_config),
        Reader("job fields", 1, make_job, lambda text: _plan_only(json.loads(text))),
        _saved_args(folder, names),
    )


_SIZES: dict[str, Any] = {
    "tensor_parallel_size": 1, "pipeline_parallel_size": 1, "expert_parallel_size": 1, "noop_layers": [], "mtp_num_layers": 0,
    "num_layers_per_virtual_pipeline_stage": 1, "num_layer_list": [3], "make_vocab_size_divisible_by": 1,
}  # fmt: skip
_OPTIONS: dict[str, Any] = {"num_layers": 2, "first_k_dense_replace": 0, "vocab_size": 16, "max_shard_size": "5GB", "dtype": "fp32"}


def _few(rng: Random, fields: Any) -> dict[str, Any]:
    """Some of the fields: all at once contradict each other."""
    return {name: value for name, value in fields.items() if rng.random() < 0.4} if isinstance(fields, dict) else {"x": fields}


def _plan_only(job: Any) -> None:
    make_plan(job)


def _job(rng: Random, source: Path, folder: Path, family: str | None) -> dict[str, Any]:
    target: dict[str, Any] = {"format": "mindspeed-llm", "path": str(folder / "none")}
    if rng.random() < 0.4:
        target = {"format": "huggingface", "path": str(folder / "none"), "config_dir": str(source)}
    made: dict[str, Any] = {"source": {"format": "huggingface", "path": str(source)}, "target": target}
    return made if family is None else {**made, "model_type": family}


def _saved_args(folder: Path, names: list[str]) -> Reader:
    ranks = {family: corpus.write_ranks(folder / family, family, folder / f"{family} ranks") for family in corpus.AS_RANKS}
    slots = {family: Slot(path) for family, (path, _, _) in ranks.items()}
    known = sorted({name for _, args, _ in ranks.values() for name in args} | set(names))

    def make(rng: Random) -> tuple[str, str, bytes]:
        family = rng.choice(list(ranks))
        _, args, tree = ranks[family]
        changed = change_value(rng, args, known)
        args = changed if isinstance(changed, dict) else {"x": changed}
        source = {"format": "mindspeed-llm", "path": str(folder / f"{family} ranks")}
        target = {"format": rng.choice(("huggingface", "mindspeed-llm")), "path": str(folder / "none")}
        return family, json.dumps({"source": source, "target": target}), _rank_file(args, tree)

    def feed(drawn: tuple[str, str, bytes]) -> None:
        family, job, data = drawn
        slots[family].write(data)
        make_plan(json.loads(job))

    return Reader("saved args", 1, make, feed)


def _rank_file(args: dict[str, Any], tree: dict[str, Any]) -> bytes:
    """The file with these args; without those that no Namespace can have, or that our writer refuses, as it shall."""
    from convsvc.errors import TargetError

    args = {name: value for name, value in args.items() if not name.startswith("__")}
    while True:
        try:
            return corpus.torch_file({"args": Namespace(**args), **tree})
        except TargetError:
            args = {name: value for name, value in args.items() if type(value) in (bool, float) or (type(value) is int and value < 2**70)}
