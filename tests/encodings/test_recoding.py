"""With its own scales every encoding gives back its codes: from the values alone, through the real steps, tile by tile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from convsvc.encodings.known import ENCODINGS
from convsvc.execute.pipeline import Tiles
from convsvc.execute.steps.budgets import Budget
from convsvc.execute.steps.compiling import compile_steps
from convsvc.execute.steps.records import Tensors
from convsvc.plan.match import Located
from convsvc.plan.quantised import plan_sources
from convsvc.plan.records import Coded, Place, PlannedTensor, Transfer, View
from tests.encodings.weights import Stored, decoded
from tests.execute.steps.test_steps import Memory, strides_in

ROOT = Path(__file__).parents[1] / "golden" / "quantised"
CASES: dict[str, dict[str, Any]] = {each["id"]: each for each in json.loads((ROOT / "cases.json").read_text())}
# Where several codes are one value: scales whose products are subnormal or infinite, NaNs, scales of zero.
AMBIGUOUS = ("extreme", "255", "every_scale", "0_to_254", "all_codes")
NAMES = [
    name
    for name, case in CASES.items()
    if case["kind"] == "dequantise" and case["trust"] == "exact" and not name.startswith("bnb.") and not any(w in name for w in AMBIGUOUS)
]


def come_back(stored: Stored, config: Any, budget: int, name: str, shape: tuple[int, ...] | None = None) -> dict[str, tuple[bytes, bytes]]:
    """Of each stored piece of a weight its bytes, and those that its values in BF16 give with what lies beside it."""
    found = stored.checkpoint(config).found["", name]
    found = found.shaped(shape or found.tensor.shape)
    (source, *pieces) = plan_sources([Located(0, "", ("", name), found)])
    coded = source.coded
    assert coded is not None
    form, values = coded.form, decoded(stored, name, "BF16", config, shape=shape)
    if form.turned:
        values = values.transpose(-1, -2).contiguous()
    data = values.contiguous().view(torch.int16).numpy().tobytes()
    dense = PlannedTensor(1, "dense", "BF16", form.shape, 0, len(data))
    tensors = Tensors([dense, *[piece._replace(file=0) for piece in pieces]], _targets(source, pieces, coded))
    axes, places = tuple(range(len(form.shape))), (Place(0, 0),)
    view = View((0,) * len(axes), form.shape, strides_in(form.shape, axes), places)
    transfer = Transfer("w", form.shape, axes, (view,), (view,))
    made = [np.zeros(each.size_bytes, np.uint8) for each in (source, *pieces)]
    tiles = Tiles(Memory([stored.data, data]), Budget(budget))
    for write, taken in tiles.produce(compile_steps(transfer, tensors, Budget(budget))):
        for place, run in write.runs(write.places[0], taken):
            made[place.tensor][place.data_offset : place.data_offset + len(run)] = np.frombuffer(run, np.uint8)
    assert not tiles.anew.counts
    parts = [stored.data[each.file_offset : each.file_offset + each.size_bytes] for each in (source, *pieces)]
    return {each.name: (was, now.tobytes()) for each, was, now in zip((source, *pieces), parts, made, strict=True)}


def _targets(source: PlannedTensor, pieces: list[PlannedTensor], coded: Coded) -> list[PlannedTensor]:
    numbers = tuple(range(1, len(pieces) + 1))
    return [source._replace(coded=coded._replace(pieces=numbers, own=tuple(Place(at, 0) for at in numbers))), *pieces]


@pytest.mark.parametrize("name", NAMES)
def test_the_values_of_a_published_weight_give_its_bytes(name: str) -> None:
    case = CASES[name]
    whole = Stored((ROOT / case["source"]).read_bytes())
    for weight, shape in {wanted.rpartition("|")[0]: tuple(said[1]) for wanted, said in case["tensors"].items()}.items():
        for budget in (4000, 1 << 22):
            for piece, (was, now) in come_back(whole, case["config"], budget, weight, shape).items():
                if name.endswith("_8_bits"):  # eight bits and a zero point: codes that are one value in BF16, which is that
                    continue
                assert now == was or same_but_for_nans(was, now, case["form"]), (weight, piece)


def same_but_for_nans(was: bytes, now: bytes, form: str) -> bool:
    """Whether float8 codes are equal but for the sign of NaNs, which no value tells."""
    one, other = (np.frombuffer(each, np.uint8) for each in (was, now))
    return "fp8" in form and one.size == other.size and bool(((one == other) | ((one == 0xFF) & (other == 0x7F))).all())


def test_every_encoding_that_is_read_has_its_way_back() -> None:
    read = {name for name, each in ENCODINGS.items() if each.SIGNS and name != "unread"}
    assert all(callable(getattr(ENCODINGS[name], way, None)) for name in read for way in ("recode", "rescale"))
    tried = {each.form.kind for name in NAMES for each in _encoded(CASES[name])}
    assert tried == read


def _encoded(case: dict[str, Any]) -> list[Any]:
    found = Stored((ROOT / case["source"]).read_bytes()).checkpoint(case["config"]).found.values()
    return [each.encoded for each in found if each.encoded is not None]


def random_weight(kind: str, rows: int, columns: int) -> dict[str, torch.Tensor]:
    """Any codes with scales as they are published; of float8 no NaN."""
    torch.manual_seed(5)
    codes = torch.randint(0, 256, (rows, columns), dtype=torch.uint8)
    codes[codes & 127 == 127] = 0x80
    packed, exponents = torch.randint(0, 256, (rows, columns // 2), dtype=torch.uint8), torch.randint(100, 130, (rows, columns // 32))
    float8 = (torch.rand(rows, columns // 16) * 400 + 0.1).to(torch.float8_e4m3fn)
    words = torch.randint(-(2**31), 2**31, (rows, columns // 8), dtype=torch.int32)
    blocks = torch.rand(-(-rows // 128), -(-columns // 128)) * 0.01 + 1e-4
    return {
        "fp8": {"w.weight": codes.view(torch.float8_e4m3fn), "w.weight_scale_inv": blocks},
        "mxfp8": {"w.weight": codes.view(torch.float8_e4m3fn), "w.weight_scale": exponents.to(torch.uint8)},
        "mxfp4": {"w.weight_packed": packed, "w.weight_scale": exponents.to(torch.uint8)},
        "nvfp4": {"w.weight": packed, "w.weight_scale": float8, "w.weight_scale_2": torch.tensor([0.00031])},
        "packed_int": {
            "w.weight_packed": words,
            "w.weight_scale": (torch.rand(rows, columns // 32) * 0.01 + 1e-4).bfloat16(),
            "w.weight_shape": torch.tensor([rows, columns], dtype=torch.int32),
        },
    }[kind]


@pytest.mark.parametrize("kind", ["fp8", "mxfp8", "mxfp4", "nvfp4", "packed_int"])
def test_of_two_million_weights_none_is_another_and_zeros_keep_their_sign(kind: str) -> None:
    rows, columns = 1024, 2080
    for piece, (was, now) in come_back(Stored.of(random_weight(kind, rows, columns)), None, 1 << 22, "w.weight").items():
        assert was == now, piece


@pytest.mark.parametrize("kind", ["fp8", "packed_int"])
def test_with_a_scale_of_zero_a_zero_keeps_its_sign_and_its_value(kind: str) -> None:
    """Which code it was, no value tells: any of that sign, or the zero, gives it."""
    pieces = {name: each.clone() for name, each in random_weight(kind, 128, 256).items()}
    scale = next(name for name in pieces if name.startswith("w.weight_scale"))
    pieces[scale][0] = 0
    (codes, *scales) = come_back(Stored.of(pieces), None, 1 << 22, "w.weight").values()
    assert all(was == now for was, now in scales)
    first = next(iter(pieces))
    again = pieces | {
        first: torch.frombuffer(bytearray(codes[1]), dtype=torch.uint8).view(pieces[first].dtype).reshape(pieces[first].shape)
    }
    have, want = (decoded(Stored.of(each), "w.weight", "BF16").view(torch.int16) for each in (again, pieces))
    assert torch.equal(have, want)
