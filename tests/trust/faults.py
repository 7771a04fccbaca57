"""Faults that a checkpoint may get after it was converted: a byte, a tensor, a word. Drawn with a `random.Random`, so that they repeat.

A fault changes files of one checkpoint and says in a line what it did; `Damage` puts everything back. What bears no meaning is left
alone: bytes between the records of a zip archive, and the order of keys.
"""

from __future__ import annotations

import io
import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from convsvc.formats import FORMATS, format_of
from convsvc.roots import RootedPath

Fault = Callable[[Path, random.Random], str | None]
RANK_FILE = "model_optim_rng.pt"
METADATA = re.compile(rb'"__metadata__":\{[^}]*\},?')


@contextmanager
def damage(root: Path, fault: Fault, rng: random.Random) -> Iterator[str | None]:
    """The checkpoint with the fault, until the block ends; what was done, or None where the fault finds nothing to change."""
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    try:
        yield fault(root, rng)
    finally:
        for path in root.rglob("*"):
            if path.is_file() and path not in before:
                path.unlink()
        for path, data in before.items():
            if not path.is_file() or path.read_bytes() != data:
                path.write_bytes(data)


def weight_files(root: Path) -> list[Path]:
    return sorted([*root.rglob("*.safetensors"), *root.rglob(RANK_FILE)])


def flip_a_bit_of_a_tensor(root: Path, rng: random.Random) -> str | None:
    path = rng.choice(weight_files(root))
    tensors = [each for each in _tensors(path) if each.size_bytes]
    if not tensors:
        return None
    tensor = rng.choice(tensors)
    return _flip(path, tensor.file_offset + rng.randrange(tensor.size_bytes), rng, f"{tensor.name} in ")


def flip_a_bit_of_a_header(root: Path, rng: random.Random) -> str | None:
    """Where names, shapes and offsets are: a safetensors header, a rank file's pickle."""
    path = rng.choice(weight_files(root))
    data = path.read_bytes()
    if path.name == RANK_FILE:
        start = data.index(b"\x80")
        said = _flip(path, rng.randrange(start, data.index(b"PK\x03\x04", start + 1) - 64), rng, "the pickle of ")
        return said if _meaning(path.read_bytes()) != _meaning(data) else None
    # What stands under __metadata__ is for people; readers leave it alone.
    size = 8 + int.from_bytes(data[:8], "little")
    unread = METADATA.search(data[:size])
    meaningless = range(*unread.span()) if unread else range(0)
    at = rng.choice([at for at in range(size) if at not in meaningless])
    return _flip(path, at, rng, "the header of ")


def exchange_two_tensors(root: Path, rng: random.Random) -> str | None:
    """Of one shape and dtype, with other values."""
    path = rng.choice(weight_files(root))
    data, tensors = bytearray(path.read_bytes()), list(_tensors(path))
    rng.shuffle(tensors)
    for at, one in enumerate(tensors):
        for other in tensors[at + 1 :]:
            first, second = (slice(each.file_offset, each.file_offset + each.size_bytes) for each in (one, other))
            if (one.shape, one.dtype) == (other.shape, other.dtype) and data[first] != data[second]:
                data[first], data[second] = data[second], data[first]
                path.write_bytes(data)
                return f"exchanged {one.name} and {other.name} in {path.name}"
    return None


def drop_a_tensor(root: Path, rng: random.Random) -> str | None:
    def drop(tensors: dict[str, Any]) -> str | None:
        if not tensors:
            return None
        name = rng.choice(sorted(tensors))
        del tensors[name]
        return f"dropped {name}"

    return _edit(rng.choice(weight_files(root)), drop)


def add_a_tensor(root: Path, rng: random.Random) -> str | None:
    """A tensor once more, under a name that looks like one of the model's."""

    def add(tensors: dict[str, Any]) -> str | None:
        if not tensors:
            return None
        name = rng.choice(sorted(tensors))
        new = name.replace("layers.0.", "layers.77.") if "layers.0." in name and rng.random() < 0.5 else f"{name}_copy"
        tensors[new] = tensors[name].clone()
        return f"added {new}"

    return _edit(rng.choice(weight_files(root)), add)


def change_a_word(root: Path, rng: random.Random) -> str | None:
    """Of config.json, or of the args of all rank files alike."""
    config = root / "config.json"
    if config.is_file():
        words = json.loads(config.read_text())
        said = _change(words, rng)
        config.write_text(json.dumps(words, indent=2))
        return f"config.json: {said}"
    said, seed = "", rng.random()
    for path in sorted(root.rglob(RANK_FILE)):
        tree = torch.load(path, weights_only=False)
        said = _change(vars(tree["args"]), random.Random(seed))
        torch.save(tree, path)
    return f"args: {said}"


def lose_a_file(root: Path, rng: random.Random) -> str | None:
    path = rng.choice(
        sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith(("conversion-report", ".convsvc")))
    )
    path.unlink()
    return f"removed {path.name}"


def cut_a_file_short(root: Path, rng: random.Random) -> str | None:
    path = rng.choice(weight_files(root))
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])
    return f"cut {path.name} short"


EVERY: tuple[Fault, ...] = (
    flip_a_bit_of_a_tensor, flip_a_bit_of_a_header, exchange_two_tensors, drop_a_tensor, add_a_tensor, change_a_word, lose_a_file,
    cut_a_file_short,
)  # fmt: skip


def _tensors(path: Path) -> Iterator[Any]:
    rooted = RootedPath(str(path))
    kind = format_of(rooted)
    assert kind
    yield from FORMATS[kind].read_index(rooted).tensors


def _flip(path: Path, at: int, rng: random.Random, what: str) -> str:
    data, bit = bytearray(path.read_bytes()), 1 << rng.randrange(8)
    data[at] ^= bit
    path.write_bytes(data)
    return f"flipped bit {bit:#x} of byte {at}, {what}{path.parent.name}/{path.name}"


def _meaning(data: bytes) -> object:
    """What a rank file says of weights and model, as torch reads it. Device, hooks, version and numbers of memos mean nothing here."""
    try:
        tree = torch.load(io.BytesIO(data), weights_only=False, map_location="cpu")
        args = {name: value for name, value in vars(tree["args"]).items() if not name.endswith("_digest")}
        models = {
            key: {name: (tensor.dtype, tensor.tolist()) for name, tensor in tree[key].items()} for key in tree if key.startswith("model")
        }
        return repr((args, tree["iteration"], models))
    except Exception as error:  # whatever a damaged pickle makes of torch: that is another meaning
        return type(error)


def _edit(path: Path, change: Callable[[dict[str, Any]], str | None]) -> str | None:
    """Changes a weight file's tensors by name, and its index where there is one."""
    if path.name == RANK_FILE:
        tree = torch.load(path, weights_only=False)
        said = change(tree[next(key for key in tree if key.startswith("model"))])
        torch.save(tree, path)
        return said and f"{said} in {path.parent.name}"
    tensors = load_file(path)
    said = change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    index = path.parent / "model.safetensors.index.json"
    if index.is_file():
        words = json.loads(index.read_text())
        others = {name: file for name, file in words["weight_map"].items() if file != path.name}
        words["weight_map"] = others | dict.fromkeys(tensors, path.name)
        index.write_text(json.dumps(words))
    return said and f"{said} in {path.name}"


def _change(words: dict[str, Any], rng: random.Random) -> str:
    """One word, at any depth: another value, or none."""
    name = rng.choice(sorted(words))
    value = words[name]
    if isinstance(value, dict) and value:
        return f"{name}: {_change(value, rng)}"
    if rng.random() < 0.2 and not _means_the_same_without(name, words):
        del words[name]
        return f"{name} removed"
    words[name] = _another(value, rng)
    return f"{name} {value!r} -> {words[name]!r}"


def _means_the_same_without(name: str, words: dict[str, Any]) -> bool:
    """Where the value is what a configuration without it has: as many key-value heads as heads, a kernel of four (Mamba-2's default)."""
    return (name, words[name]) in {("num_key_value_heads", words.get("num_attention_heads")), ("conv_kernel", 4)}


def _another(value: Any, rng: random.Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + rng.choice([1, 2, -1]) if value else 1
    if isinstance(value, float):
        return value * 2 if value else 0.5
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, list) and value:
        at = rng.randrange(len(value))
        return [*value[:at], _another(value[at], rng), *value[at + 1 :]]
    return 1 if value is None else None
