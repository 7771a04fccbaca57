"""How MindSpeed-MM names and cuts a family's tensors. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from convsvc.models.diffusion import Spelling

FORMAT = "mindspeed-mm-sora"
FRAMEWORK = "MindSpeed-MM"


@dataclass(frozen=True, slots=True)
class Form:
    """MindSpeed-MM's names of a family's tensors (`spelling`; a row's `tp` is the axis that is cut), and what its training can do.

    `tp`, `pp`, `vpp`: whether matrices are cut over ranks, layers over stages, and these over virtual ones. An axis that is a sum
    of others (`Diffusion.sums`) is cut in each of these.
    """

    spelling: Spelling
    tp: bool = False
    pp: bool = False
    vpp: bool = False
