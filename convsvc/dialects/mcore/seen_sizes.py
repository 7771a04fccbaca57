"""Sizes that the tensors show better than the saved args do, or where there are none. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from convsvc.dialects.checkpoint import Found
from convsvc.errors import SourceError
from convsvc.models.facts import Facts, is_count


def see_layout(found: Mapping[tuple[str, str], Found]) -> Mapping[str, Any]:
    """The args that rank files without args show: the parallel sizes by their directories, a tied head by its absence.

    MindSpeed-LLM's converter saves Mamba-2 without args (convert_ckpt_mamba2.py); there are no experts, so a second number is a stage.
    """
    folders = {PurePath(file).parent.name for file, _ in found}
    numbers = [[int(each) for each in re.findall(r"\d+", folder)] for folder in folders]
    return {
        "tensor_model_parallel_size": max((each[0] for each in numbers), default=0) + 1,
        "pipeline_model_parallel_size": max((each[1] for each in numbers if len(each) > 1), default=0) + 1,
        "tie_word_embeddings": not any(name.endswith("/output_layer.weight") for _, name in found),
    }


def check_padding(facts: Facts, vocab: int, stored: int, tp: int) -> None:
    """Whether the rows that are stored, `stored` over all tensor ranks, are the vocabulary's and what training would pad it by.

    Training pads to a multiple of make_vocab_size_divisible_by x tp (megatron/training/tokenizer, _vocab_size_with_padding). With 1, which
    is how a padded_vocab_size of one's own is stated, any number may be meant unless the args say the vocabulary too. What the rows
    hold is looked at when they are read.

    Raises SourceError if the numbers contradict each other.
    """
    padded, said, divisor = facts.get("padded_vocab_size"), facts.get("vocab_size"), vocab_divisor(facts) or 1
    rows = [f"{stored} rows are stored over {tp} tensor rank(s)", f"the vocabulary is {vocab}"]
    rows += [f"args.{name} is {value}" for name, value in _stated_sizes(facts).items()]
    if stored < vocab:
        raise SourceError("the vocabulary has more rows than are stored", facts=rows, do="state options.vocab_size as it is")
    if is_count(padded) and padded not in (0, stored):
        raise SourceError(
            "the embedding has not as many rows as its args say", facts=rows, do="check that all ranks are of this checkpoint"
        )
    if stored == vocab:
        return
    expected = {pad_vocab(vocab, divisor, ranks) for ranks in _tensor_ranks(tp, strictly=vocab == said)}
    if stored not in expected and (divisor > 1 or (vocab == said and vocab_divisor(facts))):
        raise SourceError(
            f"{stored - vocab} row(s) beyond the vocabulary cannot be its padding: training would have padded it to {min(expected)}",
            facts=rows,
            do="check the vocabulary's size: rows that hold tokens would be lost",
        )


def vocab_divisor(facts: Facts) -> int | None:
    """What training pads the vocabulary by, times tp."""
    value = facts.get("make_vocab_size_divisible_by")
    return int(value) if is_count(value) and value else None


def _tensor_ranks(tp: int, strictly: bool) -> set[int]:
    """The tensor parallel sizes for which a vocabulary may have been padded: a checkpoint that was cut anew keeps its rows."""
    return {tp} if strictly else {tp} | {1 << power for power in range(11)}


def _stated_sizes(facts: Facts) -> dict[str, Any]:
    names = ("vocab_size", "padded_vocab_size", "make_vocab_size_divisible_by")
    return {name: value for name in names if (value := facts.get(name)) is not None}


def pad_vocab(vocab: int, divisible_by: int | None, tp: int) -> int:
    """Rows after padding to a multiple of `divisible_by` x tp (megatron/training/tokenizer, _vocab_size_with_padding).

    >>> pad_vocab(130, 64, 2)
    256
    """
    if divisible_by is None:
        return vocab
    multiple = divisible_by * tp
    return -(-vocab // multiple) * multiple
