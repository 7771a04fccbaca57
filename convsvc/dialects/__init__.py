"""How frameworks name and lay out the logical tensors: one module (or package) each, found by the job's `format`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

from convsvc.dialects import huggingface, mindspeed_llm
from convsvc.dialects.base import Dialect

DIALECTS: Mapping[str, Dialect] = MappingProxyType({module.name: cast(Dialect, module) for module in (huggingface, mindspeed_llm)})
