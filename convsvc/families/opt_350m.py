"""OPT-350m: OPT whose layers are normed after their blocks, with an embedding that is narrower than the model.

The names are the same, and the mathematics is another: Megatron's layers begin with a norm (transformers 5.23, OPTDecoder).
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.own import own
from convsvc.families import opt
from convsvc.families.opt import ENDS

# OPT-350m's embedding is narrower than its layers.
NARROW = (
    own("model.decoder.embed_tokens.weight", "vocab embedding_width"),
    ENDS[1],
    own("model.decoder.project_in.weight", "hidden embedding_width"),
    own("model.decoder.project_out.weight", "embedding_width hidden"),
)
FAMILY = replace(
    opt.FAMILY,
    name="opt-350m",
    title="OPT-350m (norms after, narrow embedding)",
    embedding=NARROW,
    final_norm=(),
    output=(own("lm_head.weight", "vocab embedding_width"),),
    tied_output=(),
    sizes=(*opt.FAMILY.sizes, lambda facts: {"embedding_width": facts.number("word_embed_proj_dim")}),
    distinguish=lambda facts: not opt.FAMILY.distinguish(facts) if opt.FAMILY.distinguish else False,
    fields=(*opt.FAMILY.fields, "word_embed_proj_dim"),
)
