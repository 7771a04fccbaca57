"""Torch distributed checkpoints of tensors under other names, held against a Hugging Face directory, and where training looks for them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from convsvc.errors import ConvsvcError, JobError, LayoutError, SourceError
from tests.dialects.dcp.made import fsdp2, same, write_dcp
from tests.golden.mindspeed_mm_corpus import write_input

Tensors = dict[str, torch.Tensor]
NAMES = ("visual.blocks.0.w", "model.layers.0.w", "model.norm.weight", "lm_head.weight")


def drawn(names: tuple[str, ...] = NAMES) -> Tensors:
    return {name: torch.arange(12.0).reshape(4, 3) + 100 * at for at, name in enumerate(names)}


@pytest.fixture
def hf(tmp_path: Path) -> Path:
    (tmp_path / "hf").mkdir()
    save_file(drawn(), tmp_path / "hf" / "model.safetensors")
    (tmp_path / "hf" / "config.json").write_text('{"model_type": "nobody-knows"}')
    return tmp_path / "hf"


def to(hf: Path, folder: Path, **said: Any) -> list[str]:
    source = {"format": "tensor-files", "path": str(hf)}
    result = convert(
        {"model_type": "tensors", "source": source, "target": {"format": "dcp", "path": str(folder), **said}},
        engine="inline",
    )
    return [str(note) for note in result.notes]


def back(folder: Path, out: Path, **said: Any) -> tuple[Tensors, list[str]]:
    source = {"format": "dcp", "path": str(folder), **said}
    target = {"format": "tensor-files", "path": str(out)}
    result = convert({"model_type": "tensors", "source": source, "target": target}, engine="inline")
    return read(out), list(map(str, result.notes))


def read(folder: Path) -> Tensors:
    return {name: each for file in sorted(folder.glob("*.safetensors")) for name, each in load_file(file).items()}


def loaded(folder: Path, names: Tensors) -> Tensors:
    """What torch loads into `{"model": names}`."""
    state = {"model": {name: torch.zeros_like(each) for name, each in names.items()}}
    with warnings.catch_warnings(action="ignore"):
        dcp.load(state, storage_reader=dcp.FileSystemReader(folder), no_dist=True)
    return state["model"]


@pytest.mark.parametrize("shards", [1, 3])
def test_names_within_the_state_are_spelled_as_training_has_them(tmp_path: Path, hf: Path, shards: int) -> None:
    names = {"visual.": "vlm.visual.", "": "vlm.text."}
    to(hf, tmp_path / "out", prefix="model.", names=names, shards=shards, release=True)
    spelled = {"vlm.visual.blocks.0.w": "visual.blocks.0.w", **{f"vlm.text.{name}": name for name in NAMES[1:]}}
    tensors = {there: drawn()[name] for there, name in spelled.items()}
    assert same(loaded(tmp_path / "out" / "release", tensors), tensors)
    assert (tmp_path / "out" / "latest_checkpointed_iteration.txt").read_text() == "release"
    assert same(back(tmp_path / "out", tmp_path / "back", prefix="model.", names=names)[0], drawn())


def test_names_that_would_not_come_back_are_refused_before_anything_is_written(tmp_path: Path, hf: Path) -> None:
    with pytest.raises(JobError, match="names would not be read as what they are"):
        to(hf, tmp_path / "out", names={"model.": ""})
    assert not (tmp_path / "out").exists()


def test_names_that_become_one_are_refused_when_they_are_read(tmp_path: Path) -> None:
    write_dcp(tmp_path / "in", drawn(("a.w", "b.w")))
    with pytest.raises(JobError, match="would have one name"):
        back(tmp_path / "in", tmp_path / "out", names={"b": "a"})


def test_a_copy_is_written_once_more(tmp_path: Path, hf: Path) -> None:
    copies = {"head.weight": "model.layers.0.w"}
    to(hf, tmp_path / "out", prefix="model.", copies=copies)
    tensors = drawn() | {"head.weight": drawn()["model.layers.0.w"]}
    assert same(loaded(tmp_path / "out", tensors), tensors)


@pytest.mark.parametrize(
    ("copies", "words"), [({"lm_head.weight": "model.norm.weight"}, "is there already"), ({"x": "nothing"}, "there is no such tensor")]
)
def test_a_copy_of_nothing_or_over_something_is_refused(tmp_path: Path, hf: Path, copies: dict[str, str], words: str) -> None:
    with pytest.raises(LayoutError, match=r"target\.copies cannot be made") as error:
        to(hf, tmp_path / "out", copies=copies)
    assert words in error.value.facts[0]


def test_what_is_beyond_the_directorys_names_is_left_out_with_a_note(tmp_path: Path, hf: Path) -> None:
    write_dcp(tmp_path / "in", drawn() | {"value_head.weight": torch.ones(2)}, fsdp2(2))
    tensors, notes = back(tmp_path / "in", tmp_path / "out", like_dir=str(hf))
    assert same(tensors, drawn())
    assert [note for note in notes if "value_head.weight" in note and note.startswith("ignored: 1 tensor(s)")]


def test_what_the_directory_has_and_the_checkpoint_lacks_is_an_error(tmp_path: Path, hf: Path) -> None:
    write_dcp(tmp_path / "in", drawn(), prefix="model.")
    with pytest.raises(SourceError, match="lacks 4 of the 4 weights") as error:
        back(tmp_path / "in", tmp_path / "out", prefix="model.", names={"wrong.": ""}, like_dir=str(hf))
    assert error.value.facts[-1].startswith("it has 4 tensors, e.g. ")
    assert not (tmp_path / "out").exists()


def test_what_was_not_trained_is_taken_from_the_directory(tmp_path: Path, hf: Path) -> None:
    trained = {name: each + 7 for name, each in drawn().items() if not name.startswith("visual.")}
    write_dcp(tmp_path / "in", trained, fsdp2(3))
    tensors, notes = back(tmp_path / "in", tmp_path / "out", like_dir=str(hf), fill_beginning="visual.")
    assert same(tensors, trained | {"visual.blocks.0.w": drawn()["visual.blocks.0.w"]})
    assert [note for note in notes if note.startswith("filled: 1 tensor(s), e.g. visual.blocks.0.w: taken from")]


def test_nothing_is_taken_where_some_of_it_was_trained(tmp_path: Path) -> None:
    """Half of a module trained and half of it not is no model: one of the two is a mistake."""
    names = ("mtp.a", "mtp.b", "w")
    (tmp_path / "hf").mkdir()
    save_file(drawn(names), tmp_path / "hf" / "model.safetensors")
    write_dcp(tmp_path / "in", drawn(("mtp.a", "w")))
    with pytest.raises(SourceError, match="lacks 1 of the 3 weights"):
        back(tmp_path / "in", tmp_path / "out", like_dir=str(tmp_path / "hf"), fill_beginning="mtp.")


def test_experts_of_a_known_family_are_its_own_matter(tmp_path: Path) -> None:
    from tests.tiny_checkpoints import write_llama

    write_llama(tmp_path / "llama")
    job = {
        "source": {"format": "huggingface", "path": str(tmp_path / "llama")},
        "target": {"format": "dcp", "path": str(tmp_path / "out"), "experts": {"": "input_first"}},
    }
    with pytest.raises(ConvsvcError, match="keeps its experts in its own way"):
        convert(job, engine="inline")


def test_names_of_a_known_family_are_spelled_and_read_again(tmp_path: Path) -> None:
    from tests.tiny_checkpoints import write_llama

    write_llama(tmp_path / "llama")
    names = {"model.": "model.language_model.", "lm_head.": "lm_head."}
    convert(
        {
            "source": {"format": "huggingface", "path": str(tmp_path / "llama")},
            "target": {"format": "dcp", "path": str(tmp_path / "dcp"), "prefix": "model.", "names": names, "release": True},
        },
        engine="inline",
    )
    convert(
        {
            "source": {"format": "dcp", "path": str(tmp_path / "dcp"), "prefix": "model.", "names": names},
            "target": {"format": "huggingface", "path": str(tmp_path / "back")},
        },
        engine="inline",
    )
    assert same(read(tmp_path / "back"), read(tmp_path / "llama"))


@pytest.mark.parametrize(
    ("form", "words"),
    [(None, "target.form must say whose names it gets"), ("mindspeed", "mindspeed"), ("original", None), ("mindspeed-mm", None)],
)
def test_a_diffusion_models_names_are_those_of_a_form_that_there_is(form: str | None, words: str | None, tmp_path: Path) -> None:
    source = write_input({"kind": "hf", "fixture": "wan_t2v", "seed": 1}, tmp_path / "hf")
    target = {"format": "dcp", "path": str(tmp_path / "dcp")} | ({} if form is None else {"form": form})
    job = {"model_type": "wan", "source": {"format": "diffusers", "path": str(source)}, "target": target}
    if words is None:
        assert convert(job, engine="inline").notes is not None
        return
    with pytest.raises(ConvsvcError, match=words):
        convert(job, engine="inline")
    assert not (tmp_path / "dcp").exists()


def test_a_form_of_names_is_refused_for_what_has_none(tmp_path: Path, hf: Path) -> None:
    with pytest.raises(JobError, match=r"target\.form is 'original': only diffusion models have several"):
        to(hf, tmp_path / "dcp", form="original")


@pytest.mark.parametrize(
    "hostile",
    [
        b"cos\nsystem\n(S'touch ran'\ntR.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\ttouch ran\x85R.",
        b"(" * 5000 + b".",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"",
    ],
    ids=["system", "stack global", "marks", "a frame of exabytes", "nothing"],
)
def test_metadata_that_is_something_else_is_refused_and_runs_nothing(
    hostile: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_dcp(tmp_path / "dcp", drawn())
    (tmp_path / "dcp" / ".metadata").write_bytes(hostile)
    with pytest.raises(ConvsvcError, match=r"\.metadata"):
        back(tmp_path / "dcp", tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


def test_a_weight_in_another_form_than_the_directorys_is_an_error(tmp_path: Path) -> None:
    """As matrices of all experts are, where the job does not say that they are kept so; more rows of a vocabulary are none."""
    stacked = {"layers.0.mlp.experts.down_proj": torch.ones(4, 6, 8), "embed.weight": torch.ones(5, 8)}
    (tmp_path / "hf").mkdir()
    save_file(stacked, tmp_path / "hf" / "model.safetensors")
    kept = {"layers.0.mlp.experts.down_proj": torch.ones(24, 8), "embed.weight": torch.ones(7, 8)}
    write_dcp(tmp_path / "in", kept)
    with pytest.raises(SourceError, match="has 1 weights in another form") as error:
        back(tmp_path / "in", tmp_path / "out", like_dir=str(tmp_path / "hf"))
    assert error.value.facts == ("layers.0.mlp.experts.down_proj: [24, 8] here, [4, 6, 8] there",)
    assert not (tmp_path / "out").exists()


def test_beginnings_that_no_name_has_are_an_error(tmp_path: Path, hf: Path) -> None:
    with pytest.raises(JobError, match=r"target.names: no name begins with 'language_model.model.', 'vision_tower.'"):
        to(hf, tmp_path / "dcp", names={"language_model.model.": "model.language_model.", "vision_tower.": "model.vision_tower."})
    assert not (tmp_path / "dcp").exists()


@pytest.mark.parametrize(("says", "folder"), [("release", "release"), ("300\n", "iter_0000300")])
def test_of_several_iterations_it_is_the_one_that_training_says(says: str, folder: str, tmp_path: Path) -> None:
    for number, name in enumerate(("release", "iter_0000007", "iter_0000300")):
        write_dcp(tmp_path / "in" / name, {key: each + number for key, each in drawn().items()})
    (tmp_path / "in" / "latest_checkpointed_iteration.txt").write_text(says)
    tensors, _ = back(tmp_path / "in", tmp_path / "out")
    alone, _ = back(tmp_path / "in" / folder, tmp_path / "alone")
    assert same(tensors, alone)


def test_an_iteration_that_is_not_there_or_not_whole_is_named(tmp_path: Path) -> None:
    write_dcp(tmp_path / "in" / "release", drawn())
    (tmp_path / "in" / "latest_checkpointed_iteration.txt").write_text("9")
    with pytest.raises(SourceError, match=r"iter_0000009 does not exist, which .*latest_checkpointed_iteration.txt speaks of"):
        back(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "release").rename(tmp_path / "in" / "iter_0000009")
    (tmp_path / "in" / "iter_0000009" / ".metadata").unlink()
    with pytest.raises(SourceError, match=r"iter_0000009 has .distcp files and no .metadata"):
        back(tmp_path / "in", tmp_path / "out")


def test_what_is_to_be_taken_from_the_directory_and_is_here_is_an_error(tmp_path: Path, hf: Path) -> None:
    write_dcp(tmp_path / "in", drawn())
    with pytest.raises(SourceError, match=r"has 1 weights of its own that begin with 'visual\.'"):
        back(tmp_path / "in", tmp_path / "out", like_dir=str(hf), fill_beginning="visual.")


@pytest.mark.parametrize("target", ["dcp", "tensor-files"])
def test_forms_of_experts_that_there_are_none_of_are_said(target: str, tmp_path: Path, hf: Path) -> None:
    job = {
        "model_type": "tensors",
        "source": {"format": "tensor-files", "path": str(hf)},
        "target": {"format": target, "path": str(tmp_path / "out"), "experts": {"": "input_first_flat"}},
    }
    notes = [str(note) for note in convert(job, engine="inline").notes]
    assert "advice: target.experts says how experts are kept, and no layer has any: nothing of that changes" in notes
