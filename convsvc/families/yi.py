"""Yi as it was first published (YiForCausalLM; later releases are Llama's), and Orion: Llama with other norms."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.norms import NORMS
from convsvc.blocks.own import called
from convsvc.families import llama2
from convsvc.families.before_llama import STABLELM

YI = replace(
    llama2.FAMILY,
    name="yi",
    title="Yi (first release)",
    model_types=("Yi", "yi"),
    architectures=("YiForCausalLM",),
    norms=called(NORMS, input_layernorm="ln1", post_attention_layernorm="ln2"),
    flags=(),
)
ORION = replace(
    llama2.FAMILY,
    name="orion",
    title="Orion",
    model_types=("orion",),
    architectures=("OrionForCausalLM",),
    norms=STABLELM.norms,
    final_norm=STABLELM.final_norm,
    megatron=STABLELM.megatron,
)
FAMILIES = (YI, ORION)
