"""A layout says once what a thousand ranks hold alike, and so do the files that are made of it."""

from __future__ import annotations

from collections import Counter

from convsvc.dialects.alike import plan_alike
from convsvc.dialects.mcore import rank_files
from convsvc.dialects.mcore.settings import settings_for
from convsvc.dialects.mindspeed_llm.job import MindSpeedTarget
from convsvc.dialects.mindspeed_llm.tables import TABLES
from convsvc.families import FAMILIES
from convsvc.formats.base import TensorSpec
from convsvc.formats.safetensors import plan_skeleton
from convsvc.models.facts import Facts
from tests.families.latent_models import CONFIGS


def test_ranks_that_hold_the_same_elements_hold_the_same_kind() -> None:
    model = FAMILIES["deepseek3"].build(Facts(CONFIGS["deepseek3"], "config.json"))
    target = MindSpeedTarget(format="mindspeed-llm", path="/out", expert_parallel_size=2)
    layout = rank_files.layout(model, settings_for(target, model), TABLES)
    times = Counter(entry.kind for entry in layout.entries if "mp_rank" in entry.file)
    experts = {kind for kind, laid in enumerate(layout.kinds) if ".experts." in laid.name}
    assert experts
    assert {kind for kind, count in times.items() if count == 1} == experts


def test_kinds_are_named_by_the_files_they_lie_in_alone() -> None:
    """No two kinds are equal: then one of them would have done."""
    model = FAMILIES["deepseek3"].build(Facts(CONFIGS["deepseek3"], "config.json"))
    target = MindSpeedTarget(format="mindspeed-llm", path="/out", expert_parallel_size=2, tensor_parallel_size=2)
    kinds = rank_files.layout(model, settings_for(target, model), TABLES).kinds
    assert len(set(kinds)) == len(kinds)


def test_files_with_equal_tensors_are_planned_once() -> None:
    """Kinds differ by what they mean: expert 0 of one rank is expert 2 of the model on another; the files are alike."""
    specs = [TensorSpec("norm", "BF16", (4,)), TensorSpec("expert", "BF16", (4, 4)), TensorSpec("expert", "BF16", (4, 4))]
    skeletons, numbers = plan_alike([(0, 1), (0, 2), (1, 0), (0,)], specs, plan_skeleton)
    assert numbers == [0, 0, 1, 2]
    assert [[tensor.name for tensor in skeleton.tensors] for skeleton in skeletons] == [["norm", "expert"], ["expert", "norm"], ["norm"]]
