"""Which families a client of the ecosystem has judged: the same logits (adapters, or what torch loads) before a conversion and after.

They are the tables of tests/real_clients, which test_judged.py walks and holds against these.
"""

from __future__ import annotations

JUDGED: dict[str, frozenset[str]] = {
    "transformers": frozenset({
        "afmoe", "apertus", "arcee", "axk1", "bailing_hybrid", "bamba", "biogpt", "bitnet", "bloom", "codegen", "cohere", "cohere2-moe",
        "cwm", "dbrx", "deepseek2", "deepseek2-lite", "deepseek3", "deepseek32", "deepseek4", "deepseek4_base", "diffllama", "doge",
        "dots1", "ernie4.5", "ernie4.5-moe", "exaone-moe", "exaone4", "falcon", "falcon-h1", "falcon-mamba", "flex-olmo", "gemma", "gemma2",
        "gemma3", "gemma3-vl", "gemma3n", "gemma4", "gemma4-edge", "glm", "glm4", "glm4-moe-lite", "glm45", "glm45-air", "glm4v", "glm5",
        "gpt-bigcode", "gpt-neo", "gpt-neox", "gpt-oss", "gpt2", "gptj", "granite", "granite4", "granitemoe", "granitemoeshared", "helium",
        "hunyuan", "hunyuan-moe", "hyperclovax", "HYV3", "internlm3", "internvl-hf-qwen25", "jais2", "jamba", "jetmoe", "kimi-linear",
        "laguna", "lfm2", "lfm2-moe", "llama2", "llama4", "longcat", "magistral", "mamba", "mamba2", "mellum", "mimo-v2", "minicpm3",
        "minimax_m1", "minimax_m2", "minimax_m3", "mistral3", "mixtral", "mllama", "mpt", "nanochat", "nemotron", "nemotron-h", "olmo",
        "olmo-hybrid", "olmo2", "olmoe", "opt", "opt-350m", "persimmon", "phi", "phi3.5", "phi3.5-moe", "qwen2-moe", "qwen2-vl",
        "qwen2.5-vl", "qwen25", "qwen3", "qwen3-moe", "qwen3-next", "qwen3-vl", "qwen3-vl-moe", "qwen3.5", "qwen3.5-moe", "qwen3.5-vl",
        "qwen3.5-vl-moe", "recurrent-gemma", "seed-oss", "smollm3", "solar-open", "stablelm", "starcoder2", "step3", "vaultgemma", "xglm",
        "youtu",
    }),
    "megatron.core": frozenset({
        "deepseek2-lite", "deepseek3", "deepseek32", "glm5", "llama2", "qwen25", "qwen3", "qwen3-moe", "qwen3-next", "qwen3.5",
        "qwen3.5-moe",
    }),
    "megatron-fsdp": frozenset({
        "deepseek3", "deepseek32", "glm5", "llama2", "qwen3", "qwen3-moe", "qwen3-next", "qwen3.5", "qwen3.5-moe",
    }),
    "torch DCP": frozenset({"llama2", "qwen3-moe"}),
    "peft": frozenset({
        "deepseek3", "llama2", "mamba2", "phi3.5", "qwen25", "qwen3-moe",
    }),
    "diffusers": frozenset({
        "cogvideo", "hunyuan-video", "wan",
    }),
}  # fmt: skip
