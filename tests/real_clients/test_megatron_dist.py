"""megatron.core loads our torch_dist checkpoints at any layout and computes what transformers computes; what it saves is exported alike."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from math import lcm
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from convsvc.dialects.huggingface.layout import lay_model
from convsvc.dialects.megatron.extra_states import extra_states
from convsvc.dialects.megatron.layout import Keys, lay_keys
from convsvc.families import FAMILIES, Facts, Wanted
from tests.real_clients.ranks import megatron_core, run_world
from tests.real_clients.tiny_models import DEEPSEEK, EXPERTS, INDEXER, SIZES, TOKENS, Tiny, load, logits, save_random
from tests.real_clients.tiny_models import NEXT as HYBRID

pytestmark = pytest.mark.real_client

RANK_PROGRAM = Path(__file__).with_name("megatron_dist_rank.py")
# Where the newest core is, if it is.
WORLD = 2
# The trial whose checkpoint is spoilt, too, for what integrity.json is there for.
CHANGED = "qwen3-tp2-in-small-chunks"
TOLERANCE = 1e-4
LLAMA = Tiny("llama2", "LlamaConfig", {"head_dim": 12})
QWEN25 = Tiny("qwen25", "Qwen2Config")
QWEN3 = Tiny("qwen3", "Qwen3Config", {"head_dim": 12})
MOE = Tiny("qwen3-moe", "Qwen3MoeConfig", {"head_dim": 12, **EXPERTS})
PARTLY_DENSE = Tiny("qwen3-moe", "Qwen3MoeConfig", {"head_dim": 12, **EXPERTS, "mlp_only_layers": [0, 2]})
LATENT_MOE = {**DEEPSEEK, "n_group": 2, "topk_group": 1}
DEEPSEEK3 = Tiny("deepseek3", "DeepseekV3Config", LATENT_MOE)
YARN_SAID = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 32, "beta_slow": 1,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = Tiny("deepseek3", "DeepseekV3Config", {**LATENT_MOE, "rope_parameters": YARN_SAID})
LITE = Tiny("deepseek2-lite", "DeepseekV2Config", {**DEEPSEEK, "q_lora_rank": None})
NEXT = Tiny("qwen3-next", "Qwen3NextConfig", HYBRID)
DELTA = {name: value for name, value in HYBRID.items() if name.startswith("linear_") or name == "head_dim"}
QWEN35 = Tiny("qwen3.5", "Qwen3_5TextConfig", DELTA)
QWEN35_MOE = Tiny("qwen3.5-moe", "Qwen3_5MoeTextConfig", HYBRID)
SPARSE = Tiny("deepseek32", "DeepseekV32Config", {**LATENT_MOE, **INDEXER})
SHARED = ["full", "shared", "full", "shared"]
GLM5 = Tiny("glm5", "GlmMoeDsaConfig", {**DEEPSEEK, **INDEXER, "indexer_types": SHARED})
NO_SHARING = "core 0.16 knows no layers that share an indexer, and its latent attention wants Transformer Engine's kernels for one"


@dataclass(frozen=True, slots=True)
class Trial:
    """A model, how it is written, and the layout at which a Megatron world loads it."""

    name: str
    tiny: Tiny
    target: dict[str, Any] = field(default_factory=dict)
    layout: dict[str, int] = field(default_factory=dict)
    tied: bool = False
    local: bool = False  # saved by the names of Megatron's own modules
    single: bool = False  # saved with singleton_local_shards
    mtp: bool = False
    wanting: str = ""  # what the newest core asks for, and the model has not
    run: bool = False  # by rank files that a run has left
    later: str = ""  # why the core that is installed cannot load it

    @property
    def world(self) -> int:
        """As Megatron counts its ranks."""
        tp = self.layout.get("tp", 1)
        return self.layout.get("pp", 1) * lcm(tp, self.layout.get("ep", 1) * self.layout.get("etp", tp))


TP, PP, EP, VPP = {"tp": 2}, {"pp": 2}, {"tp": 2, "ep": 2, "etp": 1}, {"pp": 2, "vpp": 2}
PER_LAYER, SMALL, HASHED = {"layer_keys": "per-layer"}, {"chunk_size": "2KiB"}, {"verify_integrity": True}
TRIALS = (
    Trial("llama2-stacked-tp2", LLAMA, {"layer_keys": "stacked"}, TP),
    Trial("llama2-per-layer-in-small-chunks-pp2", LLAMA, {**PER_LAYER, **SMALL}, PP),
    Trial("qwen25-tp2", QWEN25, {"make_vocab_size_divisible_by": 40}, TP),
    Trial("qwen25-tied-pp2", QWEN25, {"iteration": "12"}, PP, tied=True),
    Trial("qwen3-tp2-in-small-chunks", QWEN3, SMALL | HASHED, TP),
    Trial("qwen3-moe-per-layer-ep2", MOE, {**PER_LAYER, **SMALL}, EP, local=True),
    Trial("qwen3-moe-stacked-pp2", MOE, {"layer_keys": "stacked"}, PP, local=True),
    Trial("qwen3-moe-partly-dense-tp2", PARTLY_DENSE, {}, TP),
    Trial("qwen3-moe-partly-dense-single-shards-ep2", PARTLY_DENSE, {}, EP, single=True),
    Trial("qwen3-vpp2", QWEN3, {}, VPP),
    Trial("qwen3-of-a-run-tp2", QWEN3, {}, TP, run=True),
    Trial("qwen3-moe-stacked-vpp2", MOE, {"layer_keys": "stacked"}, VPP),
    Trial("deepseek3-with-mtp-tp2", DEEPSEEK3, HASHED, TP, mtp=True),
    Trial("deepseek3-with-mtp-ep2", DEEPSEEK3, {}, {"ep": 2}, mtp=True),
    Trial("deepseek3-with-mtp-vpp2", DEEPSEEK3, {}, VPP, mtp=True),
    Trial("deepseek3-with-mtp-and-yarn-pp2", YARN, SMALL, PP, mtp=True),
    Trial("deepseek2-lite-ep2", LITE, {}, EP, wanting="linear_q_proj.layer_norm_weight"),
    Trial("qwen3-next-tp2", NEXT, {}, TP),
    Trial("qwen3-next-with-mtp-pp2-in-small-chunks", NEXT, SMALL, PP, mtp=True),
    Trial("qwen3-next-with-mtp-vpp2", NEXT, {}, VPP, mtp=True),
    Trial("qwen3.5-tp2", QWEN35, {}, TP),
    Trial("qwen3.5-moe-ep2", QWEN35_MOE, {}, EP),
    Trial("deepseek32-pp2-in-small-chunks", SPARSE, SMALL, PP, mtp=True, later=NO_SHARING),
    Trial("deepseek32-ep2", SPARSE, {}, {"ep": 2}, later=NO_SHARING),
    Trial("glm5-that-shares-indexers-pp2", GLM5, {}, PP, later=NO_SHARING),
)  # fmt: skip


EP_SIZES = {"tensor_parallel_size": 2, "expert_parallel_size": 2, "expert_tensor_parallel_size": 1}
# By rank files, in Transformer Engine's names.
RANKS = (
    Trial("deepseek3-with-mtp-ranks-tp2", DEEPSEEK3, {"tensor_parallel_size": 2, "mtp_num_layers": 1}, TP, mtp=True, wanting="mtp."),
    Trial("deepseek2-lite-ranks-pp2", LITE, {"pipeline_parallel_size": 2}, PP, wanting="linear_q_proj.layer_norm_weight"),
    Trial("qwen3-next-ranks-tp2", NEXT, {"tensor_parallel_size": 2}, TP),
    Trial("qwen3.5-moe-ranks-ep2", QWEN35_MOE, EP_SIZES, EP),
)  # fmt: skip


# The same model in Megatron's words and in a configuration's.
LATENT = {
    "num_layers": 2, "hidden_size": 8, "ffn_hidden_size": 12, "num_attention_heads": 4, "multi_latent_attention": True, "q_lora_rank": 5,
    "kv_lora_rank": 6, "qk_head_dim": 4, "qk_pos_emb_head_dim": 2, "v_head_dim": 3, "qk_layernorm": True, "normalization": "RMSNorm",
    "add_bias_linear": False, "gated_linear_unit": True, "num_moe_experts": 2, "moe_ffn_hidden_size": 4, "rope_type": "rope",
    "moe_shared_expert_intermediate_size": 4, "moe_router_topk": 2, "moe_layer_freq": [0, 1], "moe_token_dispatcher_type": "allgather",
    "mtp_num_layers": 1, "moe_router_enable_expert_bias": True, "moe_router_score_function": "sigmoid",
    "transformer_impl": "local",
}  # fmt: skip
LATENT_CONFIG = {
    "hidden_size": 8, "vocab_size": 12, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 6,
    "q_lora_rank": 5, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 3, "intermediate_size": 12, "moe_intermediate_size": 4,
    "n_routed_experts": 2, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "num_nextn_predict_layers": 1,
    "tie_word_embeddings": False,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Client:
    """What a core answered: its version, what every rank said of every trial, and where it saved."""

    version: str
    answers: tuple[dict[str, Any], ...]
    folder: Path

    @property
    def is_newest(self) -> bool:
        return not self.version.startswith("0.16.")

    def can_load(self, trial: Trial) -> None:
        """Skips what this core has no modules for."""
        if trial.later and not self.is_newest:
            pytest.skip(trial.later)


@dataclass(frozen=True, slots=True)
class Written:
    """Every trial's source and target in a folder, what a rank is asked, and transformers' logits."""

    folder: Path
    tasks: tuple[dict[str, Any], ...]
    expected: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("written")
    expected, tasks = {}, []
    for trial in (*TRIALS, *RANKS):
        source, target = folder / f"{trial.name}-hf", folder / trial.name
        save_random(trial.tiny, source, dtype=torch.float32, tied=trial.tied)
        expected[trial.name] = logits(load(source)[0])
        if trial.mtp:
            add_mtp(source, trial.tiny.family)
        given = left_by_a_run(source, folder / f"{trial.name}-run") if trial.run else {"format": "huggingface", "path": str(source)}
        job = {
            "source": given,
            "target": {"format": "megatron", "path": str(target), **trial.target, **({"storage": "torch"} if trial in RANKS else {})},
        }
        convert(job, engine="inline")
        tasks.append({"name": trial.name, "checkpoint": str(target), "layout": trial.layout, "local": trial.local, "single": trial.single})
        tasks[-1]["hashed"] = "verify_integrity" in trial.target
        if trial.name == CHANGED:
            tasks.append(with_a_changed_byte(tasks[-1], folder / "changed"))
    return Written(folder, tuple(tasks), expected)


def left_by_a_run(source: Path, target: Path) -> dict[str, str]:
    """Rank files at iteration 40, whose args count the samples that training has consumed; as a job's source."""
    ranks = {"format": "megatron", "storage": "torch", "path": str(target), "tensor_parallel_size": 2, "iteration": "40"}
    convert({"source": {"format": "huggingface", "path": str(source)}, "target": ranks}, engine="inline")
    for file in target.glob("*/*/*.pt"):
        content = torch.load(file, weights_only=False)
        content["args"].consumed_train_samples, content["args"].consumed_valid_samples = 160, 8
        torch.save(content, file)
    return {"format": "megatron", "storage": "torch", "path": str(target)}


def with_a_changed_byte(task: dict[str, Any], target: Path) -> dict[str, Any]:
    """The same checkpoint with one bit of one weight turned, which no name or shape tells."""
    shutil.copytree(task["checkpoint"], target)
    file = max(target.glob("*/*.distcp"), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    return {**task, "name": "changed", "checkpoint": str(target)}


@pytest.fixture(scope="module", params=["installed", "newest"])
def client(request: pytest.FixtureRequest, written: Written, tmp_path_factory: pytest.TempPathFactory) -> Client:
    """The core that is installed, and the newest one, which says that it wants another Python, where somebody put it.

    Starting Megatron takes seconds, so that all trials run in one world.
    """
    path = megatron_core(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    dist = {"changed", *(trial.name for trial in TRIALS)}
    later = {trial.name for trial in TRIALS if trial.later and path is None}
    asked = [
        {**task, "tokens": TOKENS.tolist(), **({"again": str(folder / task["name"])} if task["name"] in dist else {})}
        for task in written.tasks
        if task["name"] not in later
    ]
    answers = run_world(RANK_PROGRAM, WORLD, [*asked, {"name": "latent", "latent": LATENT}], folder, path)
    return Client(answers[0].pop("version"), answers, folder)


def test_each_core_is_the_one_that_is_meant(client: Client, request: pytest.FixtureRequest) -> None:
    assert client.version.startswith("0.16." if "installed" in request.node.name else "0.19.")
    assert {trial.world for trial in TRIALS + RANKS} == {WORLD}


@pytest.mark.parametrize("trial", [pytest.param(trial, id=trial.name) for trial in TRIALS])
def test_megatron_loads_with_its_default_strictness_and_the_logits_agree(trial: Trial, client: Client, written: Written) -> None:
    client.can_load(trial)
    if trial.wanting and client.is_newest:
        # Its specs fuse a norm into the projection of queries that have no low rank (core 0.19.2, transformer/mla_qk_norm_config.py).
        assert f"{trial.wanting} from model not in state dict" in client.answers[0][trial.name]["error"]
        return
    for answers in client.answers:
        assert "error" not in answers[trial.name], answers[trial.name]["error"]
    want = written.expected[trial.name]
    have = torch.tensor(client.answers[-1][trial.name]["logits"])[..., : want.shape[-1]]
    assert (have - want).abs().max() <= TOLERANCE
    assert want.abs().max() > 1000 * TOLERANCE


def test_training_goes_on_at_the_iteration_that_a_run_had_come_to(client: Client, written: Written) -> None:
    """With --no-load-optim and --no-load-rng, of what its loader reads beside the weights; others begin at 0."""
    run = next(trial.name for trial in TRIALS if trial.run)
    assert (written.folder / run / "latest_checkpointed_iteration.txt").read_text() == "40"
    for answers in client.answers:
        want = {"iteration": 40, "checkpoint_version": 3.0, "consumed_train_samples": 160, "consumed_valid_samples": 8}
        assert answers[run]["progress"] == want
        assert answers["qwen3-vpp2"]["progress"] == {**want, "iteration": 0, "consumed_train_samples": 0, "consumed_valid_samples": 0}


def test_megatrons_own_check_of_our_hashes_finds_a_changed_byte_and_nothing_else(client: Client) -> None:
    """What it finds right was loaded above, `HASHED` trials among the rest. Core 0.16 has no such check."""
    hashed = [trial for trial in TRIALS if "verify_integrity" in trial.target]
    assert len(hashed) > 1
    assert CHANGED in [trial.name for trial in hashed]
    for answers in client.answers:
        said = answers["changed"].get("error", "")
        assert ("Checkpoint integrity verification failed for 1 file(s)" in said) == client.is_newest, said
        assert not client.is_newest or "hash mismatch" in said


@pytest.mark.parametrize("trial", [pytest.param(trial, id=trial.name) for trial in RANKS])
def test_every_rank_loads_its_own_file_strictly_and_the_logits_agree(trial: Trial, client: Client, written: Written) -> None:
    """By Transformer Engine's names, which later cores have changed for MTP layers."""
    if trial.wanting and client.is_newest:
        assert trial.wanting in client.answers[0][trial.name]["error"]
        return
    for answers in client.answers:
        assert "error" not in answers[trial.name], answers[trial.name]["error"]
        assert answers[trial.name]["mismatch"] == []
    want = written.expected[trial.name]
    have = torch.tensor(client.answers[-1][trial.name]["logits"])[..., : want.shape[-1]]
    assert (have - want).abs().max() <= TOLERANCE


@pytest.mark.parametrize("trial", [pytest.param(trial, id=trial.name) for trial in TRIALS])
def test_what_megatron_saves_comes_back_bit_for_bit(trial: Trial, client: Client, written: Written, tmp_path: Path) -> None:
    """Cut as its layout cuts it, with a random state beside it. Norms that are stored less 1 are those that float32 makes of that."""
    client.can_load(trial)
    if trial.wanting and client.is_newest:
        return
    job: dict[str, Any] = {
        "source": {"format": "megatron", "path": str(client.folder / trial.name)},
        "target": {"format": "huggingface", "path": str(tmp_path / "back")},
        "options": {"vocab_size": SIZES["vocab_size"]},
    }
    convert(job, engine="inline")
    want, have = read_tensors(written.folder / f"{trial.name}-hf"), read_tensors(tmp_path / "back")
    want |= {name: (each - 1) + 1 for name, each in want.items() if name.endswith(".linear_attn.norm.weight")}
    assert set(want) == set(have)
    assert not [name for name, tensor in want.items() if not torch.equal(tensor, have[name])]


def test_all_that_latent_attention_experts_and_mtp_layers_ask_for_is_there(client: Client) -> None:
    """By the names of Transformer Engine's layers or, where Megatron's own differ, by those that are read as well."""
    asked = client.answers[0]["latent"]
    assert "error" not in asked, asked["error"]
    model, settings = FAMILIES["deepseek3"].build(Facts(LATENT_CONFIG, "config.json"), Wanted(num_mtp=1)), Keys(12, stacked=False)
    keys = lay_keys(model, settings)
    shapes = {name: list(key.shape) for key in keys for name in (key.name, *key.parts[0][0].also)}
    assert len(asked["keys"]) == len(keys)
    assert not {name: shape for name, shape in asked["keys"].items() if shapes.get(name) != shape}
    assert not set(asked["objects"]) - set(extra_states(model, settings))
    assert len(asked["objects"]) > 20


COPIED = {"embed_tokens.weight": "model.embed_tokens.weight", "shared_head.head.weight": "lm_head.weight"}


def add_mtp(directory: Path, family: str) -> None:
    """Gives a saved model an MTP layer, which transformers has no module for; what it repeats is what it repeats."""
    config = json.loads((directory / "config.json").read_text()) | {"num_nextn_predict_layers": 1}
    (directory / "config.json").write_text(json.dumps(config))
    tensors = read_tensors(directory)
    model = FAMILIES[family].build(Facts(config, "config.json"), Wanted(num_mtp=1))
    for laid in lay_model(model).kinds:
        if laid.name not in tensors:
            copied = next((name for end, name in COPIED.items() if laid.name.endswith(end)), None)
            tensors[laid.name] = torch.randn(laid.shape) * 0.3 + 0.1 if copied is None else tensors[copied].clone()
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def read_tensors(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}
