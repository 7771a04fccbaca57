"""megatron.core saves models that it began with, and whose args are training's alone: exported, they compute the same in transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from convsvc.conversion import convert
from convsvc.errors import SourceError
from tests.real_clients.ranks import megatron_core, run_world, values_of
from tests.real_clients.test_megatron_dist import RANK_PROGRAM, TOLERANCE, WORLD, read_tensors
from tests.real_clients.tiny_models import TOKENS, load, logits

pytestmark = pytest.mark.real_client

ROWS = 65
# As megatron/training/arguments.py leaves them; the vocabulary is padded to rows that all ranks have as many of.
COMMON: dict[str, Any] = {
    "num_layers": 4, "hidden_size": 32, "ffn_hidden_size": 48, "num_attention_heads": 8, "group_query_attention": True,
    "num_query_groups": 4, "kv_channels": 12, "normalization": "RMSNorm", "norm_epsilon": 1e-6, "swiglu": True, "add_bias_linear": False,
    "add_qkv_bias": False, "qk_layernorm": True, "position_embedding_type": "rope", "use_rotary_position_embeddings": True,
    "rotary_base": 20000, "rotary_percent": 1.0, "use_rope_scaling": False, "max_position_embeddings": 128, "padded_vocab_size": 72,
    "untie_embeddings_and_output_weights": True, "transformer_impl": "transformer_engine", "num_experts": None, "mtp_num_layers": None,
    "multi_latent_attention": False, "apply_layernorm_1p": False, "bf16": False,
}  # fmt: skip
EXPERTS = {
    "num_experts": 4, "moe_ffn_hidden_size": 16, "moe_router_topk": 2, "moe_router_pre_softmax": False, "moe_layer_freq": 1,
    "moe_router_score_function": "softmax", "moe_grouped_gemm": False, "moe_shared_expert_intermediate_size": None,
}  # fmt: skip
LATENT = {
    **EXPERTS, "multi_latent_attention": True, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_head_dim": 8, "qk_pos_emb_head_dim": 4,
    "v_head_dim": 12, "group_query_attention": False, "num_query_groups": 1, "kv_channels": 4, "moe_layer_freq": [0, 1, 1, 1],
    "moe_router_score_function": "sigmoid", "moe_router_enable_expert_bias": True, "moe_router_num_groups": 2, "moe_router_group_topk": 1,
    "moe_router_topk_scaling_factor": 2.5, "moe_shared_expert_intermediate_size": 16, "mtp_num_layers": 1, "rope_type": "yarn",
    "rotary_scaling_factor": 4.0, "mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 32, "beta_slow": 1,
    "original_max_position_embeddings": 64,
}  # fmt: skip
HYBRID = {
    **EXPERTS, "experimental_attention_variant": "gated_delta_net", "linear_attention_freq": [1, 1, 1, 0], "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "attention_output_gate": True, "apply_layernorm_1p": True, "rotary_percent": 0.25, "moe_shared_expert_intermediate_size": 24,
    "moe_shared_expert_gate": True, "moe_layer_freq": [1, 1, 1, 1], "mtp_num_layers": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Trial:
    """A family's model in training's words, and the layout at which it is built and saved."""

    family: str
    args: dict[str, Any]
    layout: dict[str, int]
    hashed: bool = False

    @property
    def name(self) -> str:
        return "-".join([self.family, *(f"{size}{count}" for size, count in self.layout.items())])


TP, PP, VPP, EP, EP_ALONE = {"tp": 2}, {"pp": 2}, {"pp": 2, "vpp": 2}, {"tp": 2, "ep": 2, "etp": 1}, {"ep": 2}
TRIALS = (
    Trial("qwen3", {}, TP, hashed=True),
    Trial("qwen3", {}, VPP),
    Trial("qwen3-moe", EXPERTS, EP),
    Trial("qwen3-moe", EXPERTS, VPP),
    Trial("deepseek3", LATENT, TP),
    Trial("deepseek3", LATENT, EP_ALONE, hashed=True),
    Trial("deepseek3", LATENT, VPP),
    Trial("qwen3-next", HYBRID, TP),
    Trial("qwen3-next", HYBRID, EP),
    Trial("qwen3-next", HYBRID, VPP),
)
NAMED = [pytest.param(trial, id=trial.name) for trial in TRIALS]


@dataclass(frozen=True, slots=True)
class Saved:
    """What each rank answered, and where each trial's model was saved; whether that core can hash its files."""

    folder: Path
    answers: tuple[dict[str, Any], ...]
    can_hash: bool

    def exported(self, trial: Trial, target: Path, **stated: Any) -> Path:
        source = {"format": "megatron", "path": str(self.folder / trial.name), **stated}
        options = {"vocab_size": ROWS, "on_loss": "note"}  # rows beyond it were as random as all others
        job = {"model_type": trial.family, "source": source, "target": {"format": "huggingface", "path": str(target)}, "options": options}
        convert(job, engine="inline")
        return target


@pytest.fixture(scope="module", params=["installed", "newest"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    path = megatron_core(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    tasks = []
    for trial in TRIALS:
        content = {"singleton_local_shards": False, "non_homogeneous_layers": bool(trial.args)}
        asked = {"name": trial.name, "args": COMMON | trial.args, "layout": trial.layout, "hashed": trial.hashed, "content": content}
        tasks.append({**asked, "tokens": TOKENS.tolist(), "again": str(folder / trial.name)})
    answers = run_world(RANK_PROGRAM, WORLD, tasks, folder, path)
    return Saved(folder, answers, request.param == "newest")


@pytest.mark.parametrize("trial", NAMED)
def test_what_megatron_began_with_computes_the_same_in_transformers(trial: Trial, saved: Saved, tmp_path: Path) -> None:
    """By a configuration that is derived from what training saved; an MTP layer, of which no logit is, has the values that it was given."""
    for answers in saved.answers:
        assert "error" not in answers[trial.name], answers[trial.name]["error"]
    exported = saved.exported(trial, tmp_path / "hf")
    model, info = load(exported)
    assert not info["missing_keys"]
    have, want = logits(model), torch.tensor(saved.answers[-1][trial.name]["logits"])[..., :ROWS]
    assert (have - want).abs().max() <= TOLERANCE
    assert want.abs().max() > 1000 * TOLERANCE
    tensors = read_tensors(exported)
    assert tensors["lm_head.weight"].shape == (ROWS, 32)
    joined = {"deepseek3": "model.layers.4.eh_proj.weight", "qwen3-next": "mtp.fc.weight"}.get(trial.family)
    if joined is not None:
        assert torch.equal(tensors[joined], values_of("mtp.layers.0.eh_proj.weight", (32, 64)))


def test_the_same_model_comes_of_every_layout(saved: Saved, tmp_path: Path) -> None:
    """Tensor, pipeline, virtual and expert ranks save the same weights, of which the export is the same bit for bit."""
    for family in sorted({trial.family for trial in TRIALS}):
        first, *others = (read_tensors(saved.exported(trial, tmp_path / trial.name)) for trial in TRIALS if trial.family == family)
        for other in others:
            assert first.keys() == other.keys()
            assert not [name for name, tensor in first.items() if not torch.equal(tensor, other[name])]


def test_what_training_said_of_the_model_is_said_of_it_when_it_is_laid_out_anew(saved: Saved, tmp_path: Path) -> None:
    """In the same words of training, by whose router, rotary positions and norms it goes on."""
    for trial in TRIALS:
        source = {"format": "megatron", "path": str(saved.folder / trial.name)}
        job = {"model_type": trial.family, "source": source, "target": {"format": "megatron", "path": str(tmp_path / trial.name)}}
        convert(job, engine="inline")
        args = vars(torch.load(tmp_path / trial.name / "release" / "common.pt", weights_only=False)["args"])
        said = {name: value for name, value in (COMMON | trial.args).items() if value is not None and value is not False}
        assert {name: args.get(name) for name in said} == said
        assert not [name for name, value in (COMMON | trial.args).items() if value is False and args.get(name)]


@pytest.mark.parametrize("trial", [each for each in NAMED if each.values[0].hashed])
def test_megatrons_own_hashes_are_checked_before_its_weights_are_read(trial: Trial, saved: Saved, tmp_path: Path) -> None:
    """Core 0.16 writes none."""
    if not saved.can_hash:
        pytest.skip("core 0.16 has no --verify-integrity")
    saved.exported(trial, tmp_path / "hf", verify_integrity=True)
    folder = saved.folder / trial.name / "iter_0000003"
    file = max(folder.glob("*.distcp"), key=lambda path: path.stat().st_size)
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        with pytest.raises(SourceError, match=r"integrity\.json"):
            saved.exported(trial, tmp_path / "changed", verify_integrity=True)
    finally:
        file.write_bytes(whole)
