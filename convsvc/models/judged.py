"""Which families a client of the ecosystem has judged: the same logits before a conversion and after. They are the tables of
tests/real_clients, against which test_transformers_coverage.py holds them."""

from __future__ import annotations

JUDGED: dict[str, frozenset[str]] = {
    "transformers": frozenset({
        "afmoe", "apertus", "arcee", "axk1", "bailing_hybrid", "bamba", "bitnet", "bloom", "codegen", "cohere", "cohere2-moe", "cwm",
        "dbrx", "deepseek2", "deepseek2-lite", "deepseek3", "deepseek32", "deepseek4", "deepseek4_base", "dots1", "ernie4.5",
        "ernie4.5-moe", "exaone-moe", "exaone4", "falcon", "falcon-h1", "falcon-mamba", "flex-olmo", "gemma", "gemma2", "gemma3",
        "gemma3n", "gemma4", "gemma4-edge", "glm", "glm4", "glm4-moe-lite", "glm45", "glm45-air", "glm5", "gpt-bigcode", "gpt-neo",
        "gpt-neox", "gpt-oss", "gpt2", "gptj", "granite", "granite4", "granitemoe", "granitemoeshared", "helium", "hunyuan",
        "hunyuan-moe", "hyperclovax", "HYV3", "internlm3", "jais2", "jamba", "kimi-linear", "laguna", "lfm2", "lfm2-moe", "llama2",
        "llama4", "longcat", "magistral", "mamba", "mamba2", "mellum", "mimo-v2", "minicpm3", "minimax_m1", "minimax_m2", "minimax_m3",
        "mixtral", "mllama", "mpt", "nemotron", "nemotron-h", "olmo", "olmo2", "olmoe", "opt", "opt-350m", "phi", "phi3.5", "phi3.5-moe",
        "qwen2-moe", "qwen25", "qwen3", "qwen3-moe", "qwen3-next", "qwen3.5", "qwen3.5-moe", "seed-oss", "smollm3", "solar-open",
        "stablelm", "starcoder2", "step3", "vaultgemma", "youtu",
    }),
}  # fmt: skip
