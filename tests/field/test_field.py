"""Published checkpoints, by their metadata: planned both ways, or refused with the true reason in the first line."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.field import TARGETS, outcome, read_kept
from benchmarks.text_decoders import TARGETS as WAYS
from benchmarks.text_decoders import there_and_back

HERE = Path(__file__).parent
# To rank files and to Hugging Face alike, or to one and the other.
EXPECTED: dict[str, str | tuple[str, str]] = {
    "1rin-openllama-chinese-english-3b": "planned: llama2",
    "aic-MiniMaxAI-MiniMax-M2.5": "planned: minimax_m2",
    "aic-XiaomiMiMo-MiMo-7B-Base": "planned: mimo",
    "aic-deepseek-ai-DeepSeek-R1": "planned: deepseek3",
    "aic-zai-org-GLM-4.7-Flash": "planned: glm4-moe-lite",
    "ananddhanabal-gemma": "planned: gemma",
    "bebopoy-InterMind-final-model": "planned: internlm2",
    "emotibot-inc-Zhuzhi-6B": "planned: chatglm",
    "jeremieconte-granite-3.1-1b-a400m-instruct": "planned: granitemoe",
    "jrd77-Baichuan2-13B-Chat": "planned: baichuan",
    "maxma233-timelyMeal": "planned: gemma3",
    "nishuone028-digital-man-checkpoint": "planned: chatglm",
    "stvlynn-Qwen-7B-Chat-Cantonese": "planned: qwen",
    "wangyantong2000-MLLM": "planned: internlm",
    "19ShengSheng-Flames": ("mindspeed-llm has no place for the head of internlm as a classifier", "planned: internlm"),
    "junqi-jiang-oasstpythia1.5brm": ("mindspeed-llm has no place for parallel_layernorm.bias", "planned: gpt-neox"),
    "Alikhan13r-falcon-180B-chat": ("mindspeed-llm has no place for parallel_layernorm.bias, parallel_layernorm.weight", "planned: falcon"),
    "Beniko95J-eval-llm": "planned: phi3.5, its text decoder",
    "kurokencom-DeepSeekOcrCPUWin-model": "planned: deepseek, its text decoder",
    "EchoCog-gpt-oss-20b": ("mindspeed-llm has no place for mlp.experts.linear_fc1.bias", "planned: gpt-oss"),
    "IrfanUruchi-Llama-2-13B-Computer-Engineering": "is quantised: NF4 of bitsandbytes",
    "gaoqinqinshan-qingshanyiliao-Qwen-7B-Chat-Int4": "planned: qwen",
    "root-hypercube-qwen3-mlx-Qwen3-14B-MLX-4bit": "is quantised: MLX",
    "aic-nvidia-Qwen3-30B-A3B-NVFP4": "planned: qwen3-moe",
    "amansingh61-bloom": "holds the marks of a merge conflict",
    "gmars-CodeFuse-CodeLlama-34B": "is a Git LFS pointer",
    "waple0820-huawei-rebuild-models": "has no weights",
    "mfarisadip-Kimi-K2-Mini-k2-mini-fast": "is not a complete deepseek3 checkpoint: 64 missing",
    "jianzhnie-Kimi2-PCL-models": "planned: deepseek3",
}


def test_the_corpus_is_here_and_small() -> None:
    files = sorted(HERE.glob("*.json.gz"))
    assert {path.name.removesuffix(".json.gz") for path in files} == set(EXPECTED)
    assert sum(path.stat().st_size for path in files) < 300_000


@pytest.mark.parametrize("title", ["MindSpeed-LLM", "Hugging Face"])
@pytest.mark.parametrize("name", EXPECTED)
def test_a_published_checkpoint_is_planned_or_refused_for_what_it_is(name: str, title: str, tmp_path: Path) -> None:
    root = read_kept(HERE / f"{name}.json.gz").write(tmp_path)
    said, expected = outcome(root, TARGETS[title]), EXPECTED[name]
    if not isinstance(expected, str):
        expected = expected[title == "Hugging Face"]
    if expected.startswith("planned"):
        assert said == expected
    else:
        assert said.startswith("refused: ")
        assert expected in said


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [name for name, said in EXPECTED.items() if "its text decoder" in said])
def test_a_published_models_text_decoder_goes_and_the_whole_directory_comes_back(name: str, way: str, tmp_path: Path) -> None:
    kept = read_kept(HERE / f"{name}.json.gz")
    assert there_and_back(kept.write(tmp_path), WAYS[way], kept.tensors)[1] == "whole"
