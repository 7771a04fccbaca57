"""Every converter in a small, fixed amount of memory, whatever tensors weigh: every step of its plans fits in the worker's buffers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.text_decoders import write_target
from convsvc.cli.mm_convert import job_of
from convsvc.cli.mm_convert.converters import CONVERTERS
from convsvc.execute.forecast import projected_bytes
from convsvc.execute.steps.compiling import compile_steps
from convsvc.execute.steps.records import Tensors
from convsvc.execute.worker import BUDGET
from convsvc.formats import safetensors
from convsvc.formats.base import TensorSpec
from convsvc.plan.plan import Plan
from convsvc.plan.planner import make_plan
from convsvc.plan.records import Transfer
from tests.golden.mindspeed_mm_corpus import Case, cases, fixture, write_input
from tests.golden.test_mm_convert import argv_of

pytestmark = pytest.mark.not_for_transformers
MIB = 1 << 20
DTYPES = {"bf16": "BF16", "f16": "F16", "f32": "F32", "i64": "I64"}
FEED_FORWARD = re.compile(r"(mlp|ffn|ff|feed_forward|mlp_moe_gen|experts)\.")
# No matrix of this many bytes fits in a buffer; of each plan so many transfers are looked at, the largest.
MATRIX, LOOKED_AT = 160 * MIB, 6
# A case of each converter, and the widths that are made large: how wide the feed-forward is in its fixture, in units of the new width.
CASES: Mapping[str, tuple[str, Mapping[int, int]]] = {
    "Qwen2VLConverter": ("q2vl-rt-tp2-pp4", {48: 1}),
    "Qwen2_5_VLConverter": ("q25vl-rt-tp2-pp2", {48: 1}),
    "InternVLConverter": ("ivl-internlm2-rt-tp1-pp1", {48: 1}),
    "Qwen2_5_OmniConverter": ("omni-rt-tp2-pp2", {48: 1}),
    "Qwen3VLMegatronConverter": ("q3vlm-moe-rt-ep2", {12: 1, 24: 2}),
    "GlmConverter": ("glm-h2m-pp2", {48: 1, 96: 2}),
    "DeepSeekVLConverter": ("dsvl-h2m-tp2-pp2", {48: 1}),
    "VideoAlignConverter": ("va-plain-h2m-canon-tp2-pp2", {48: 1}),
    "Qwen3VLConverter": ("q3vl-rt-moe", {12: 1, 24: 2}),
    "Qwen35Converter": ("q35-rt-moe", {6: 1, 12: 2}),
    "Mistral3Converter": ("mistral-rt", {24: 1}),
    "GenericDCPConverter": ("gen-rt-moe", {12: 1, 24: 2}),
    "ExpertMergeDcpConverter": ("emd-rt-glm45v", {24: 1}),
    "moe_expert": ("moe-rt-glm45v", {24: 1}),
    "WanConverter": ("wan-rt-t2v", {12: 1}),
    "VACEConverter": ("vace-rt-diffusers", {12: 1}),
    "CogVideoConverter": ("cog-src-tp2", {8: 1}),
    "OpenSoraPlanConverter": ("osp13-h2m-tp2-pp2", {8: 1}),
    "HunyuanVideoConverter": ("hy-src-tp1", {4: 1}),
    "LuminaConverter": ("lumina-h2m", {12: 1}),
    "BagelConverter": ("bagel-h2m", {12: 1}),
    "StepVideoConverter": ("step-h2m-tp2-pp2", {8: 1}),
    "OpenSoraConverter": ("osora-h2m", {8: 1}),
}
# They read what the others write, by the same jobs.
LIKE_OTHERS = {"Qwen3TTSConverter", "MOSSTTSConverter"}


def test_every_converter_is_here() -> None:
    assert CASES.keys() | LIKE_OTHERS == CONVERTERS.keys()


def widened(given: Mapping[str, Any], widths: Mapping[int, int], directory: Path) -> int:
    """The fixture with wide feed-forward layers, headers alone: weights are holes. Answers the bytes of its largest tensor."""
    made = fixture(given["fixture"])
    smallest = min(min(shape) for name, (_, shape) in made["tensors"].items() if FEED_FORWARD.search(name) and set(shape) & set(widths))
    other = max(smallest, 1) if smallest not in widths else 1
    wide = -(-MATRIX // (2 * other)) // 64 * 64

    def grown(name: str, shape: list[int]) -> tuple[int, ...]:
        return tuple(widths[size] * wide if size in widths and FEED_FORWARD.search(name) else size for size in shape)

    specs = [TensorSpec(name, DTYPES[dtype], grown(name, shape)) for name, (dtype, shape) in made["tensors"].items()]
    write_input(given, directory)
    for path in (*directory.glob("*.safetensors*"), *directory.glob("*.pt")):
        path.unlink()
    (directory / "config.json").write_text(json.dumps(_wider(made.get("config") or {}, widths, wide)))
    skeleton = safetensors.plan_skeleton(specs)
    with open(directory / "model.safetensors", "wb") as file:
        file.write(skeleton.segments[0][1])
        file.truncate(skeleton.size_bytes)
    return max(each.size_bytes for each in skeleton.tensors)


def _wider(config: Mapping[str, Any], widths: Mapping[int, int], wide: int) -> dict[str, Any]:
    return {
        name: _wider(value, widths, wide)
        if isinstance(value, dict)
        else widths[value] * wide
        if ("intermediate" in name or "ffn" in name) and isinstance(value, int) and value in widths
        else value
        for name, value in config.items()
    }


def jobs(case: Case, folder: Path) -> Iterator[dict[str, Any]]:
    places = {name: folder / name for name in (*case.said["inputs"], "mm_out", "hf_out", "dcp_out", "pt_out")}
    for step in case.steps:
        yield job_of(argv_of(step, places))


def most_held(plan: Plan) -> int:
    """Bytes of the largest buffer that a step of a plan's largest transfers has; none is beyond the worker's budget."""
    tensors, most = Tensors(plan.source_tensors, plan.target_tensors), 0
    transfers = sorted((each for task in plan.tasks for each in task.transfers), key=_elements, reverse=True)
    for step in (step for transfer in transfers[:LOOKED_AT] for step in compile_steps(transfer, tensors, BUDGET)):
        if step.held is None:
            assert step.buffer_bytes <= BUDGET.step_bytes
        assert max(step.input_bytes, step.output_bytes) <= BUDGET.wide_bytes
        most = max(most, step.buffer_bytes)
    return most


def _elements(transfer: Transfer) -> int:
    return sum(view.volume for view in transfer.writes)


@pytest.mark.parametrize("converter", CASES)
def test_no_buffer_holds_a_tensor_and_a_worker_stays_below_its_budget_whatever_they_weigh(converter: str, tmp_path: Path) -> None:
    name, widths = CASES[converter]
    case = next(each for each in cases() if each.id == name)
    ((source, given),) = case.said["inputs"].items()
    largest = widened(given, widths, tmp_path / source)
    for job in jobs(case, tmp_path):
        plan = make_plan(job)
        assert max(each.size_bytes for each in plan.source_tensors) >= MATRIX
        assert 0 < most_held(plan) < largest
        assert projected_bytes(plan) <= 512 * MIB
        write_target(plan, Path(plan.target_path))
