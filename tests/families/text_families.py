"""The families of text models: those that are one module. Text models' formats hold no other."""

from __future__ import annotations

from convsvc.families import FAMILIES

# Nothing of Megatron's holds their mathematics: they have no saved args, and keep the configuration that they came with.
HUGGING_FACE_ONLY = frozenset({
    "bailing_hybrid", "bloom", "codegen", "cohere", "exaone4", "gemma3n", "gemma4", "gemma4-edge", "gpt-oss", "gptj", "kimi-k3",
    "kimi-linear", "laguna",
    "lfm2", "lfm2-moe", "mimo-v2", "minimax_m1", "minimax_m3", "mllama", "olmo", "olmo2", "opt-350m", "phi", "step3",
    "flex-olmo", "apertus", "bitnet", "afmoe", "cohere2-moe", "bamba", "falcon-h1", "jamba", "mamba", "falcon-mamba",
    "olmo-hybrid", "recurrent-gemma", "persimmon", "nanochat", "diffllama", "doge", "jetmoe", "xglm", "biogpt",
})  # fmt: skip
TEXT_FAMILIES = tuple(name for name, family in FAMILIES.items() if not family.towers and family.decoder)
RANK_FILE_FAMILIES = tuple(name for name in TEXT_FAMILIES if name not in HUGGING_FACE_ONLY)
