"""Jobs with Megatron-style rank files of MindSpeed-MM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from convsvc.errors import JobError
from convsvc.spec.formats import formats

FORMAT = "mindspeed-mm"
Make = Callable[[Any, Mapping[str, Any]], dict[str, Any]]


def hf_to_mm(converter: str) -> Make:
    return _not_yet(converter, "hf_to_mm")


def mm_to_hf(converter: str) -> Make:
    return _not_yet(converter, "mm_to_hf")


def resplit(converter: str) -> Make:
    return _not_yet(converter, "resplit")


def lora_hf_to_mm(converter: str) -> Make:
    return _not_yet(converter, "lora_hf_to_mm")


def lora_mm_to_hf(converter: str) -> Make:
    return _not_yet(converter, "lora_mm_to_hf")


def sora(converter: str, command: str) -> Make:
    return _not_yet(converter, command)


def _not_yet(converter: str, command: str) -> Make:
    def make(config: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
        assert FORMAT not in formats()
        raise JobError(
            f"{converter} {command}: rank files of MindSpeed-MM are not written or read yet",
            do="use `GenericDCPConverter`, or MindSpeed-MM's own mm-convert",
        )

    return make
