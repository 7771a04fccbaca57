"""Reading what torch.save writes, as training, transformers and conversion tools use it."""

from __future__ import annotations

import argparse
import collections
import enum
import functools
import random

import numpy as np
import pytest
import torch

from convsvc.errors import FormatError
from convsvc.formats.base import Global, Inert
from convsvc.formats.torch_zip import read_index


class ModelKind(enum.Enum):
    """Stands for megatron.core.enums.ModelType, which every training checkpoint's args hold."""

    encoder_or_decoder = 1


class Recipe:
    """An object of a training framework."""

    def __init__(self, parent=None):
        self.steps, self.parent, self.weights = [1, 2], parent, torch.ones(3)


class Named(dict):
    """A dict of a class of its own."""


@pytest.fixture
def saved(tmp_path):
    def save(value, **options):
        torch.save(value, tmp_path / "model.pt", **options)
        return tmp_path / "model.pt"

    return save


def bytes_of(path, tensor):
    return path.read_bytes()[tensor.file_offset : tensor.file_offset + tensor.size_bytes]


def by_name(index):
    return {tensor.name: tensor for tensor in index.tensors}


def test_nested_tensors_are_named_by_their_path(saved):
    index = read_index(saved({"model0": {"a.weight": torch.ones(2)}, "opt": [{"exp": (torch.zeros(1), 5)}], "iteration": 3}))
    assert set(by_name(index)) == {"model0/a.weight", "opt/0/exp/0"}
    assert index.tree["iteration"] == 3
    assert index.tree["model0"]["a.weight"] is by_name(index)["model0/a.weight"]
    assert index.tree["opt"][0]["exp"] == (by_name(index)["opt/0/exp/0"], 5)


def test_saved_args_are_a_namespace_of_plain_values(saved):
    args = argparse.Namespace(
        num_layers=2, eps=1e-5, name="é", sizes=[1, (2, 3)], none=None, huge=2**70, low=-(2**40), dtype=torch.bfloat16
    )
    read = read_index(saved({"args": args})).tree["args"]
    assert isinstance(read, argparse.Namespace)
    assert isinstance(read.dtype, Global)
    assert (read.dtype.module, read.dtype.name) == ("torch", "bfloat16")
    given, found = vars(args), vars(read)
    assert {name: found[name] for name in given if name != "dtype"} == {name: given[name] for name in given if name != "dtype"}


def test_views_of_one_storage_are_found_at_their_offsets(saved):
    base = torch.arange(24, dtype=torch.int32).reshape(6, 4)
    path = saved({"whole": base, "rows": base[2:4], "row": base[5], "again": base, "column": base[:, :1][:1], "empty": base[6:]})
    tensors = by_name(read_index(path))
    for name, tensor in {"whole": base, "rows": base[2:4], "row": base[5], "again": base, "column": base[:1, :1]}.items():
        assert bytes_of(path, tensors[name]) == tensor.numpy().tobytes()
    assert tensors["empty"].shape == (0, 4)


def test_strides_of_axes_of_length_one_do_not_matter(saved):
    tensor = torch.arange(4.0).as_strided((1, 4, 1), (99, 1, 77))
    assert by_name(read_index(saved({"w": tensor})))["w"].shape == (1, 4, 1)


@pytest.mark.parametrize(
    "tensor", [torch.ones(3, 2).t(), torch.ones(4, 4)[:, ::2], torch.ones(1).expand(5)], ids=["transposed", "sparse", "expanded"]
)
def test_a_tensor_that_is_not_row_major_is_refused_by_name(saved, tensor):
    with pytest.raises(FormatError, match="model/w: is not row-major") as caught:
        read_index(saved({"model": {"w": tensor, "fine": torch.ones(1)}}))
    assert "1 of 2 tensors" in str(caught.value)


def test_a_conjugated_view_is_refused_by_name(saved):
    with pytest.raises(FormatError, match="w: is a conjugated"):
        read_index(saved({"w": torch.ones(2, dtype=torch.complex64).conj()}))


def test_a_dtype_nobody_converts_is_refused_by_name(saved):
    with pytest.raises(FormatError, match="w: has the dtype ComplexDoubleStorage"):
        read_index(saved({"w": torch.ones(2, dtype=torch.complex128)}))


def test_parameters_and_their_attributes_are_tensors(saved):
    plain, marked = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.zeros(3))
    marked.tensor_model_parallel = True
    index = read_index(saved({"plain": plain, "marked": marked}))
    assert {name: tensor.shape for name, tensor in by_name(index).items()} == {"plain": (2,), "marked": (3,)}


def test_a_state_dict_of_a_module_reads_as_a_dict(saved):
    index = read_index(saved(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).state_dict()))
    assert isinstance(index.tree, collections.OrderedDict)
    assert set(index.tree) == set(by_name(index)) >= {"0.weight", "1.running_mean", "1.num_batches_tracked"}


def test_a_real_optimizer_and_its_random_states_can_be_read(saved):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    states = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state(), "loss": np.float32(1.5)}
    index = read_index(saved({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng_state": [states]}))
    assert {"optimizer/state/0/exp_avg", "optimizer/state/1/exp_avg_sq", "rng_state/0/torch"} <= set(by_name(index))
    assert index.tree["rng_state"][0]["python"] == states["python"]
    assert isinstance(index.tree["rng_state"][0]["loss"], Inert)


def test_objects_of_a_framework_become_inert_records(saved):
    inner = Recipe()
    partial = functools.partial(torch.nn.functional.gelu, approximate="tanh")
    index = read_index(saved({"kind": ModelKind.encoder_or_decoder, "recipe": Recipe(inner), "act": partial, "named": Named(a=1)}))
    kind, recipe = index.tree["kind"], index.tree["recipe"]
    # Python 3.11.0 to 3.11.3 write a member of an enumeration by its name, others as a call with its value.
    by_value = type(kind) is Inert and (kind.name, kind.args) == ("ModelKind", (1,))
    assert by_value or (type(kind) is Global and kind.name == "ModelKind.encoder_or_decoder")
    assert recipe.state["steps"] == [1, 2]
    assert recipe.state["parent"].state["weights"].shape == (3,)
    assert (index.tree["act"].module, index.tree["act"].name) == ("functools", "partial")
    assert index.tree["named"].state == {"a": 1}
    assert set(by_name(index)) == {"recipe/state/weights", "recipe/state/parent/state/weights"}


def test_objects_that_contain_themselves_can_be_read(saved):
    recipe, items = Recipe(), []
    recipe.parent, recipe.steps = recipe, items
    items.append(items)
    index = read_index(saved({"recipe": recipe}))
    assert index.tree["recipe"].state["parent"] is index.tree["recipe"]


def test_a_tensor_alone_is_a_checkpoint_too(saved):
    index = read_index(saved(torch.ones(2)))
    assert index.tree[""].shape == (2,)


def test_plain_containers_of_every_kind_are_built(saved):
    value = {
        "set": {1, "a"},
        "bytes": b"\x00\xff",
        "size": torch.Size([1, 2]),
        "default": collections.defaultdict(list, a=[1]),
        ("k", 1): 0.5,
    }
    tree = read_index(saved(value)).tree
    assert tree == {"set": {1, "a"}, "bytes": b"\x00\xff", "size": (1, 2), "default": {"a": [1]}, ("k", 1): 0.5}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_since_two_is_read(saved, protocol):
    value = {"w": torch.ones(2), "text": "x" * 300, "frozen": frozenset({1}), "data": b"ab", "many": list(range(3000)), "big": 2**80}
    tree = read_index(saved(value, pickle_protocol=protocol)).tree
    assert {name: item for name, item in tree.items() if name != "w"} == {name: item for name, item in value.items() if name != "w"}


def test_a_file_of_before_torch_1_6_says_how_to_save_it_again(saved):
    with pytest.raises(FormatError, match=r"before 1\.6") as caught:
        read_index(saved({"w": torch.ones(2)}, _use_new_zipfile_serialization=False))
    assert "torch.save(torch.load" in caught.value.do


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_torchscript_program_says_how_to_save_its_weights(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "model.pt")
    with pytest.raises(FormatError, match="TorchScript") as caught:
        read_index(tmp_path / "model.pt")
    assert "state_dict()" in caught.value.do
