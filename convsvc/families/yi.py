"""Yi as it was first published (YiForCausalLM; later releases are Llama's): Llama by other names of its norms."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.norms import NORMS
from convsvc.blocks.own import called
from convsvc.families import llama2

FAMILY = replace(
    llama2.FAMILY,
    name="yi",
    title="Yi (first release)",
    model_types=("Yi", "yi"),
    architectures=("YiForCausalLM",),
    norms=called(NORMS, input_layernorm="ln1", post_attention_layernorm="ln2"),
    flags=(),
)
