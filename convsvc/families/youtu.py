"""Youtu-LLM: MiniCPM3 without factors or biases."""

from __future__ import annotations

from dataclasses import replace

from convsvc.families import minicpm3

FAMILY = replace(
    minicpm3.FAMILY,
    name="youtu",
    title="Youtu-LLM",
    model_types=("youtu",),
    architectures=("YoutuForCausalLM",),
    flags=(),
    advice=(),
)
