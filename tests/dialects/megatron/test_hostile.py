"""torch_dist that is damaged or made to be: converted or inspected, each fault is an error that says where it is and what to do."""

from __future__ import annotations

import io
import pickle
import re
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import metadata as of
from torch.distributed.checkpoint.filesystem import _StorageInfo

from convsvc.conversion import convert
from convsvc.errors import ConvsvcError
from convsvc.plan.inspect import inspect_checkpoint
from tests.dialects.dcp.made import in_safetensors
from tests.tiny_checkpoints import write_llama

NORM, FC2 = "decoder.final_layernorm.weight", "decoder.layers.mlp.linear_fc2.weight"
FOLDER = "release"


def written(root: Path, **stated: Any) -> dict[str, bytes]:
    """Every file of a sound checkpoint, by its path."""
    write_llama(root / "hf")
    target = {"format": "megatron", "path": str(root / "run"), "chunk_size": "0.1KB", **stated}
    convert({"source": {"format": "huggingface", "path": str(root / "hf")}, "target": target}, engine="inline")
    return {str(path.relative_to(root / "run")): path.read_bytes() for path in (root / "run").rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return written(tmp_path_factory.mktemp("sound"))


def laid(sound: dict[str, bytes], root: Path) -> Path:
    """The iteration's directory of a new copy."""
    for name, data in sound.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root / FOLDER


def back(folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    target = folder.parent / "back"
    source = {"format": "megatron", "path": str(folder.parent)}
    convert({"source": source, "target": {"format": "huggingface", "path": str(target)}, "options": options}, engine="inline")
    return in_safetensors(target)


def metadata_of(folder: Path) -> of.Metadata:
    return pickle.loads((folder / ".metadata").read_bytes())


def told(change: Callable[[of.Metadata], object]) -> Callable[[Path], None]:
    """`.metadata` changed."""

    def done(folder: Path) -> None:
        metadata = metadata_of(folder)
        change(metadata)
        (folder / ".metadata").write_bytes(pickle.dumps(metadata))

    return done


def place_of(metadata: of.Metadata, name: str, number: int = 0) -> of.MetadataIndex:
    return [index for index in metadata.storage_data if index.fqn == name][number]


def moved(metadata: of.Metadata, offset: int = 0, length: int = 0, name: str = NORM) -> None:
    index = place_of(metadata, name)
    at = metadata.storage_data[index]
    metadata.storage_data[index] = _StorageInfo(at.relative_path, at.offset + offset, at.length + length)


def beyond(metadata: of.Metadata) -> None:
    """The last chunk of the norm's file is longer than the file."""
    file = metadata.storage_data[place_of(metadata, NORM)].relative_path
    there = {index: at for index, at in metadata.storage_data.items() if at.relative_path == file}
    last = max(there, key=lambda index: there[index].offset)
    metadata.storage_data[last] = _StorageInfo(file, there[last].offset, 10**7)


def packed(metadata: of.Metadata) -> None:
    metadata.storage_data[place_of(metadata, NORM)].transform_descriptors = ["zstd"]


def saved(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def put(folder: Path, value: Any, name: str = NORM) -> None:
    """Another torch file in the place of an entry's, in a file of its own."""
    data = saved(value)
    (folder / "other.distcp").write_bytes(data)
    told(lambda metadata: metadata.storage_data.update({place_of(metadata, name): _StorageInfo("other.distcp", 0, len(data))}))(folder)


def add_chunk(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """A second chunk that has all of a norm, `change`d: what two of them hold twice is compared."""
    index = place_of(metadata_of(folder), NORM)
    at = metadata_of(folder).storage_data[index]
    honest = torch.load(io.BytesIO((folder / at.relative_path).read_bytes()[at.offset : at.offset + at.length]))
    part = change(honest)[1:]
    data = saved(part.clone())
    (folder / "again.distcp").write_bytes(data)

    def change_metadata(metadata: Any) -> None:
        metadata.state_dict_metadata[NORM].chunks.append(of.ChunkStorageMetadata(torch.Size([1]), part.size()))
        metadata.storage_data[of.MetadataIndex(NORM, torch.Size([1]), 1)] = _StorageInfo("again.distcp", 0, len(data))

    told(change_metadata)(folder)


def without_chunk(metadata: Any) -> None:
    metadata.state_dict_metadata[FC2].chunks.pop(0)


def nowhere(metadata: of.Metadata) -> None:
    del metadata.storage_data[place_of(metadata, FC2)]


class Codec:
    """A class that nobody knows."""


class Runs:
    def __reduce__(self) -> Any:
        return eval, ("1",)


def with_adapters(metadata: Any) -> None:
    metadata.state_dict_metadata["decoder.layers.self_attention.linear_qkv.adapter.linear_in.weight"] = metadata.state_dict_metadata[NORM]
    index = place_of(metadata, NORM)
    name = "decoder.layers.self_attention.linear_qkv.adapter.linear_in.weight"
    metadata.storage_data[of.MetadataIndex(name, index.offset, 0)] = metadata.storage_data[index]


def adapters(folder: Path) -> None:
    """LoRA's matrices with bytes of their own, as training with adapters saves them beside what they were added to."""
    data = saved(torch.zeros(4, 8))
    (folder / "lora.distcp").write_bytes(data)

    def change(metadata: Any) -> None:
        name = "decoder.layers.0.self_attention.linear_qkv.adapter.linear_in.weight"
        start, size = torch.Size([0, 0]), torch.Size([4, 8])
        properties = of.TensorProperties(dtype=torch.float32)
        metadata.state_dict_metadata[name] = of.TensorStorageMetadata(properties, size, [of.ChunkStorageMetadata(start, size)])
        metadata.storage_data[of.MetadataIndex(name, start, 0)] = _StorageInfo("lora.distcp", 0, len(data))

    told(change)(folder)


def truncated(folder: Path) -> None:
    at = metadata_of(folder).storage_data[place_of(metadata_of(folder), FC2)]
    path = folder / at.relative_path
    path.write_bytes(path.read_bytes()[: at.offset + at.length // 2])


def gone(folder: Path) -> None:
    at = metadata_of(folder).storage_data[place_of(metadata_of(folder), FC2)]
    (folder / at.relative_path).unlink()


def disagreeing(folder: Path) -> None:
    add_chunk(folder, lambda each: each + 1)


def common_cut(folder: Path) -> None:
    (folder / "common.pt").write_bytes((folder / "common.pt").read_bytes()[:200])


def common(value: Any) -> Callable[[Path], None]:
    return lambda folder: torch.save(value, folder / "common.pt")


# What is done, and what must be said: the tensor or the file first.
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file cut short": (truncated, rf"cut short(.|\n)+the item of {FC2} is at bytes \d+ to \d+, the file has"),
    "a file that is gone": (gone, r"1 of 88 files .+ are missing(.|\n)+distcp: 6 chunks, e.g. of decoder(.|\n)+do: fetch"),
    "an offset some bytes on": (told(lambda m: moved(m, 8)), rf"the item of {NORM} at byte \d+\) is not a torch zip file"),
    "an offset beyond the file": (told(lambda m: moved(m, 10**7)), rf"cut short(.|\n)+the item of {NORM} is at bytes"),
    "a length over another chunk": (told(lambda m: moved(m, 0, 10**7)), rf"lie at the same bytes(.|\n)+{NORM}"),
    "a length beyond the file": (told(beyond), r"cut short(.|\n)+the item of .+ is at bytes \d+ to \d+, the file has"),
    "a length too short": (told(lambda m: moved(m, 0, -40)), rf"the item of {NORM} at byte(.|\n)+no directory at its end"),
    "no length": (told(lambda m: moved(m, 0, -metadata_length(m))), rf"the item of {NORM} at byte \d+\) is empty"),
    "bytes of two": (told(with_adapters), "lie at the same bytes"),
    "adapters beside the weights": (adapters, r"left over lora.distcp: .+linear_qkv.adapter.linear_in.weight"),
    "another shape": (lambda folder: put(folder, torch.zeros(3).bfloat16()), rf"{NORM}(.|\n)+BF16 \[16\], found BF16 \[3\]"),
    "another dtype": (lambda folder: put(folder, torch.zeros(16).double()), rf"{NORM}(.|\n)+BF16 \[16\], found F64 \[16\]"),
    "an object for a tensor": (lambda folder: put(folder, {"a": torch.zeros(8)}), rf"{NORM} at byte(.|\n)+in a tree, not one by itself"),
    "code for a tensor": (lambda folder: put(folder, Runs()), "asks to run code: builtins.eval"),
    "two chunks that disagree": (disagreeing, rf"copies differ(.|\n)+{NORM} of .+again.distcp has"),
    "a hole": (told(without_chunk), rf"{FC2}(.|\n)+no chunk holds it"),
    "a chunk without a place": (told(nowhere), rf"{FC2}(.|\n)+does not say where it lies"),
    "a codec": (told(packed), rf"{NORM}: it is packed by an extension"),
    "a class for a tensor": (told(lambda m: m.state_dict_metadata.update({NORM: Codec()})), rf"{NORM}: is neither"),
    "code in .metadata": (told(lambda m: setattr(m, "planner_data", Runs())), "asks to run code: builtins.eval"),
    "code in common.pt": (common({"args": Namespace(x=Runs())}), "common.pt asks to run code: builtins.eval"),
    "common.pt cut short": (common_cut, r"common.pt is not a sound zip(.|\n)+no directory at its end"),
    "no common.pt": (lambda folder: (folder / "common.pt").unlink(), r"no saved args \(state source.config_dir\)"),
}  # fmt: skip


# What shows in no header, as nothing but values is otherwise.
UNSEEN = ("two chunks that disagree",)


def metadata_length(metadata: of.Metadata) -> int:
    return metadata.storage_data[place_of(metadata, NORM)].length


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_an_error_that_says_where_and_what_to_do(fault: str, sound: dict[str, bytes], tmp_path: Path) -> None:
    folder = laid(sound, tmp_path / "run")
    spoil, said = FAULTS[fault]
    spoil(folder)
    with pytest.raises(ConvsvcError) as raised:
        back(folder)
    text = str(raised.value)
    assert re.search(said, text), text
    assert "do: " in text, text
    assert len(text.splitlines()) <= 16
    assert not (folder.parent / "back").exists()


def inspected(path: Path) -> dict[str, Any] | str:
    """What lies there, or the error's text."""
    try:
        return inspect_checkpoint(str(path))
    except ConvsvcError as error:
        return str(error)


@pytest.mark.parametrize("fault", FAULTS)
def test_inspecting_it_ends_in_the_same_error_or_says_what_lies_there(fault: str, sound: dict[str, bytes], tmp_path: Path) -> None:
    folder = laid(sound, tmp_path / "run")
    FAULTS[fault][0](folder)
    said = inspected(folder.parent)
    assert isinstance(said, dict) or re.search(FAULTS[fault][1], said), said
    assert isinstance(said, str) or fault in UNSEEN or not said["complete"]


def test_a_class_that_nobody_knows_is_an_inert_record_and_chunks_that_agree_are_one(sound: dict[str, bytes], tmp_path: Path) -> None:
    want = back(laid(sound, tmp_path / "sound"))
    folder = laid(sound, tmp_path / "run")
    told(lambda metadata: setattr(metadata, "planner_data", {"codec": Codec()}))(folder)
    add_chunk(folder, lambda each: each)
    have = back(folder)
    assert want.keys() == have.keys()
    assert all(torch.equal(want[name], have[name]) for name in want)


def test_a_file_that_training_writes_last_is_missed_and_nothing_of_the_weights(sound: dict[str, bytes], tmp_path: Path) -> None:
    """What is told of the weights is in .metadata, which is there and names all files."""
    want = back(laid(sound, tmp_path / "sound"))
    folder = laid(sound, tmp_path / "run")
    (folder / "metadata.json").unlink()
    source = {"format": "megatron", "path": str(folder)}
    result = convert({"source": source, "target": {"format": "huggingface", "path": str(tmp_path / "back")}}, engine="inline")
    have = in_safetensors(tmp_path / "back")
    assert all(torch.equal(want[name], have[name]) for name in want)
    assert [note.text for note in result.notes if note.kind == "advice" and "has no metadata.json" in note.text]


@pytest.mark.parametrize("storage", ["torch_dist", "fsdp_dtensor"])
def test_bytes_changed_at_random_are_an_error_of_ours_or_those_of_a_weight(storage: str, tmp_path: Path) -> None:
    """To the end of a conversion: at most the elements are others of which bytes were changed."""
    random, ends, sound = Random(7), Counter[str](), written(tmp_path, storage=storage)
    want = back(laid(sound, tmp_path / "sound"))
    names = sorted(name for name in sound if name.startswith(FOLDER))
    for number in range(30):
        name = random.choice(names)
        changed = bytearray(sound[name])
        count = random.choice([1, 4])
        for _ in range(count):
            changed[random.randrange(len(changed))] = random.randrange(256)
        folder = laid(
            sound | {name: bytes(changed[: random.choice([len(changed), random.randrange(len(changed))])])}, tmp_path / str(number)
        )
        try:
            have = back(folder)
        except ConvsvcError:
            ends["error"] += 1
            continue
        ends["converted"] += 1
        assert sum(int((want[key].view(torch.uint8) != have[key].view(torch.uint8)).sum()) for key in want) <= count, name
    assert ends["error"] > 5
