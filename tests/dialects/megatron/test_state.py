"""What lies beside the weights is told by its names, as core writes them; what is no torch_dist is refused as what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from convsvc.dialects.megatron.state import describe
from convsvc.plan.inspect import inspect_checkpoint
from tests.dialects.dcp.made import write_dcp

KEYS = ("embedding.word_embeddings.weight", "decoder.layers.mlp.linear_fc1.weight")
BUCKET = "optimizer.distributed.dp_group_idx_0.gbuf_idx_0.dtype_(torch.bfloat16, torch.float32).bucket_idx_0"


def of_keys(main: str, before: str = "") -> list[str]:
    return [f"{before}optimizer.state.{kind}.{key}" for kind in (main, "exp_avg", "exp_avg_sq") for key in KEYS]


FORMS = {
    "fully_reshardable": (of_keys("param"), "6 entries of .metadata: optimizer state, fully_reshardable"),
    "of a chain": (of_keys("param", "chained_1."), "6 entries of .metadata: optimizer state, fully_reshardable"),
    "fully_sharded_model_space": (
        of_keys("fp32_param", "chained_0."),
        "6 entries of .metadata: optimizer state, fully_sharded_model_space",
    ),
    "dp_reshardable": (
        [f"{BUCKET}.param", f"{BUCKET}.exp_avg", "optimizer.distributed.dp_group_idx_0.optimizer/shard_0_1"],
        "3 entries of .metadata: optimizer state in buckets of one layout (dp_reshardable)",
    ),
    "of Megatron-FSDP": (
        [
            f"optimizer.{kind}.module.module.module.{KEYS[0]}{rest}"
            for kind, rest in (("state", ".exp_avg"), ("state", ".step"), ("param_to_group_meta", ".lr"))
        ],
        "3 entries of .metadata: optimizer state of Megatron-FSDP",
    ),
    "moments alone": ([f"optimizer.state.exp_avg.{KEYS[0]}"], "1 entries of .metadata: optimizer state: training state"),
    "of a state machine": (
        ["rerun_state_machine.sharded.mode"],
        "1 entries of .metadata: rerun_state_machine",
    ),
    "random numbers": (["rng_state/shard_0_2", "rng_state/shard_1_2"], "2 entries of .metadata: rng_state: training state"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_optimizer_state_has_its_name(form: str) -> None:
    names, said = FORMS[form]
    notes = describe(names, ".metadata")
    assert [note.kind for note in notes] == ["ignored"]
    assert notes[0].text.startswith(said)


def test_state_that_is_bound_to_its_layout_says_the_flag_that_helps() -> None:
    assert "--dist-ckpt-optim-fully-reshardable" in describe(FORMS["dp_reshardable"][0], ".metadata")[0].text


def test_a_hundred_kinds_are_a_few_notes() -> None:
    notes = describe([f"thing_{number}/shard_0_1" for number in range(100)], ".metadata")
    assert len(notes) == 13
    assert notes[-1].text == "and 88 further kinds of objects"


def test_inspect_says_which_state_lies_there(tmp_path: Path) -> None:
    write_dcp(tmp_path / "one", {name: torch.zeros(4, 2) for name in [*KEYS, *of_keys("param")]})
    (tmp_path / "one" / "metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')
    said = inspect_checkpoint(str(tmp_path / "one"))
    assert "fully_reshardable" in str(said["notes"])
