"""What transformers' classes take where a configuration, above all one that is nested in another, says only what differs. Pure.

Wrappers (LLaVA, Gemma 3, xGen-MM ...) save their text_config so. transformers 5.23, `PreTrainedConfig` classes by model_type; sizes only: a
wrong one shows in the tensors' shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from convsvc.models.facts import NAMES, Facts

_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
)  # fmt: skip
_SIZES: Mapping[str, tuple[int | None, ...]] = {
    "llama": (32000, 4096, 11008, 32, 32, None, None),
    "mistral": (32000, 4096, 14336, 32, 32, 8, None),
    "ministral3": (131072, 4096, 14336, 34, 32, 8, 128),
    "mixtral": (32000, 4096, 14336, 32, 32, 8, None),
    "qwen2": (151936, 4096, 22016, 32, 32, 32, None),
    "qwen3": (151936, 4096, 22016, 32, 32, 32, 128),
    "qwen3_moe": (151936, 2048, 6144, 24, 32, 4, 128),
    "phi": (51200, 2048, 8192, 24, 32, None, None),
    "phi3": (32064, 3072, 8192, 32, 32, None, None),
    "gemma": (256000, 3072, 24576, 28, 16, 16, 256),
    "gemma2": (256000, 2304, 9216, 26, 8, 4, 256),
    "gemma3_text": (262208, 2304, 9216, 26, 8, 4, 256),
    "granite": (32000, 4096, 11008, 32, 32, None, None),
    "glm4": (151552, 4096, 13696, 40, 32, 2, 128),
    "qwen3_5_text": (248320, 4096, 12288, 32, 16, 4, 256),
}
# DeepSeek-V3's latent attention, which a configuration of another kind (kimi_k2) may leave to the class, too.
_LATENT = {"q_lora_rank": 1536, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}
DEFAULTS = MappingProxyType(
    {
        kind: MappingProxyType({field: size for field, size in zip(_FIELDS, sizes, strict=True) if size is not None})
        for kind, sizes in _SIZES.items()
    }
    | {"deepseek_v3": MappingProxyType(_LATENT)}
)
# Of which all is said or nothing: a rank that is left out beside another means that there is none. Megatron's names for two of them.
WHOLE, OTHERWISE = ("deepseek_v3",), ("qk_head_dim", "qk_pos_emb_head_dim")
_ALIASES = {name: names for names in NAMES.values() for name in names}


def completed(facts: Facts, kind: str) -> Facts:
    """The facts with what a class takes for what they are silent about; of a kind that is not known, as they are.

    >>> completed(Facts({"num_hidden_layers": 2}, "config.json"), "phi3").number("hidden")
    3072
    """
    if kind in WHOLE and any(name in facts.values for name in (*DEFAULTS[kind], *OTHERWISE)):
        return facts
    silent = {
        name: value
        for name, value in DEFAULTS.get(kind, {}).items()
        if all(facts.get(each) is None for each in _ALIASES.get(name, (name,)))
    }
    return (
        Facts({**silent, **{name: value for name, value in facts.values.items() if name not in silent}}, facts.origin) if silent else facts
    )
