"""Ways of quantising that are not read: known by their names, and refused in words.

The names are those of bitsandbytes, MLX, Mistral's own FP8, HQQ, Quanto, torchao, AQLM, QuIP#, EXL2 and EXL3, of ModelOpt's AWQ, BitNet
and compressed-tensors' sparse weights.
"""

from __future__ import annotations

from convsvc.encodings.base import Claim, Look, Unread

# What is in the place of a weight or beside it and tells by its name alone what it is; the longest endings first.
TELLING: dict[str, str] = {
    ".bitsandbytes__nf4": "NF4 of bitsandbytes",
    ".bitsandbytes__fp4": "FP4 of bitsandbytes",
    ".SCB": "int8 of bitsandbytes",
    ".qscale_weight": "float8 under Mistral's own names",
    ".W_q": "HQQ",
    "._data": "Quanto or torchao",
    ".codebooks": "AQLM",
    ".Qidxs": "QuIP#",
    ".trellis": "EXL3",
    ".q_weight": "EXL2",
    ".bitmask": "sparse weights (compressed-tensors' bitmasks)",
    ".pre_quant_scale": "weights whose inputs are scaled (ModelOpt's AWQ, pre_quant_scale)",
}
SIGNS = (*TELLING, ".scales", "_scale", ".scale")


def claim(stem: str, sign: str, look: Look) -> Claim | None:
    """Raises Unread for what is known and not read."""
    if sign in TELLING:
        raise Unread(TELLING[sign])
    weight = look.part(stem + ".weight") if sign in (".scales", ".scale") else look.part(stem)
    if sign == ".scales":
        if weight is not None and weight.dtype == "U32":
            raise Unread("MLX")
        return None
    scale = look.part(stem + sign)
    if weight is None or scale is None or scale.dtype not in ("F32", "BF16", "F16"):
        return None
    if weight.dtype == "I8":
        raise Unread("int8")
    if weight.dtype == "U8" and stem.endswith(".weight"):
        raise Unread("BitNet" if scale.shape in ((), (1,)) else "integers of 4 bits, two a byte (ModelOpt's W4A16_AWQ, W4A8_AWQ)")
    return None
