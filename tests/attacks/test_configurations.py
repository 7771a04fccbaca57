"""A config.json, or saved args, that say what no model has: beside weights that are real and small.

What stops it: `families.facts` takes only whole numbers up to 2**53 and lists of what belongs in them; `families.believable` refuses more
layers, experts or tensors than the checkpoint's own could be. Refused with a ConvsvcError, within seconds.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from convsvc.errors import ConvsvcError, SourceError
from convsvc.plan.planner import make_plan
from tests.security.fuzz import corpus

VALUES: tuple[Any, ...] = (
    10**15, 10**400, -1, 0, 0.5, math.inf, math.nan, True, "4", [], [[]], {"a": 1}, None, 1_000_000, [10**15] * 3, ["x"] * 3, "\ud800",
)  # fmt: skip
FAMILIES = ("llama2", "qwen3-moe", "deepseek4", "qwen3-next", "mamba2")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("checkpoints")

    def written(family: str) -> Path:
        if not (folder / family).exists():
            corpus.write_checkpoint(family, folder / family)
        return folder / family

    return written


@contextmanager
def quick() -> Iterator[None]:
    """A ConvsvcError or none, within ten seconds of processor time."""
    began = time.process_time()
    with contextlib.suppress(ConvsvcError):
        yield
    assert time.process_time() - began < 10


def plan(source: Path, config: Any, *, target: str = "mindspeed-llm", **more: Any) -> ConvsvcError | None:
    """What planning answers to this config.json; anything but a plan or a ConvsvcError is a failure."""
    (source / "config.json").write_text(json.dumps(config))
    places = {"source": {"format": "huggingface", "path": str(source)}, "target": {"format": target, "path": str(source.parent / "out")}}
    try:
        make_plan({**places, **more})
    except ConvsvcError as error:
        return error
    return None


@pytest.mark.parametrize("family", FAMILIES)
def test_no_value_of_any_field_is_more_than_an_error(checkpoints: Callable[[str], Path], family: str) -> None:
    config = corpus.config_of(family)
    for field in config:
        for value in VALUES:
            with quick():
                plan(checkpoints(family), {**config, field: value}, model_type=family)


@pytest.mark.parametrize("count", [10**18, 10**9, 1001, 2**53 + 1, -1, 2.5, "3", True])
@pytest.mark.parametrize("target", ["mindspeed-llm", "huggingface"])
def test_layers_that_are_not_there_are_not_laid_out(checkpoints: Callable[[str], Path], count: Any, target: str) -> None:
    with quick():
        error = plan(checkpoints("llama2"), {**corpus.config_of("llama2"), "num_hidden_layers": count}, target=target)
    assert isinstance(error, SourceError)
    assert "num_hidden_layers" in str(error) or "layers; the checkpoint has 30 tensors" in str(error)


@pytest.mark.parametrize("count", [10**15, 10**6])
def test_experts_that_are_not_there_are_not_laid_out(checkpoints: Callable[[str], Path], count: int) -> None:
    error = plan(checkpoints("qwen3-moe"), {**corpus.config_of("qwen3-moe"), "num_experts": count})
    assert isinstance(error, SourceError)
    assert "experts included" in str(error)


@pytest.mark.parametrize("count", [10**15, 10**6])
def test_mtp_layers_that_are_not_there_are_not_laid_out(checkpoints: Callable[[str], Path], count: int) -> None:
    error = plan(checkpoints("deepseek3"), {**corpus.config_of("deepseek3"), "num_nextn_predict_layers": count})
    assert "MTP layers" in str(error)


def test_a_job_that_asks_for_a_million_ranks_or_mtp_layers_is_answered_at_once(checkpoints: Callable[[str], Path]) -> None:
    source = checkpoints("deepseek3")
    fields = ("tensor_parallel_size", "pipeline_parallel_size", "expert_parallel_size", "mtp_num_layers", "make_vocab_size_divisible_by")
    (source / "config.json").write_text(json.dumps(corpus.config_of("deepseek3")))
    for field in fields:
        target = {"format": "mindspeed-llm", "path": str(source.parent / "out"), field: 2**31 - 1}
        with quick():
            make_plan({"source": {"format": "huggingface", "path": str(source)}, "target": target})


def test_a_model_without_a_layer_is_none(checkpoints: Callable[[str], Path]) -> None:
    source = checkpoints("plm")
    for config, options in (
        (corpus.config_of("plm"), {"first_k_dense_replace": 0}),
        (corpus.config_of("plm") | {"num_hidden_layers": 0}, {}),
    ):
        error = plan(source, config, options=options)
        assert isinstance(error, SourceError)
        assert "no layer is left" in str(error)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 900 + "1" + "}" * 900, "\ufeff{}", '{"num_hidden_layers": ' + "9" * 5000 + "}"])
def test_json_made_to_break_parsers_is_refused(checkpoints: Callable[[str], Path], text: str) -> None:
    source = checkpoints("llama2")
    (source / "config.json").write_text(text)
    with pytest.raises(ConvsvcError):
        make_plan({"source": {"format": "huggingface", "path": str(source)}, "target": {"format": "huggingface", "path": "/nowhere/out"}})


def test_a_configuration_of_a_megabyte_is_not_repeated_in_the_error(checkpoints: Callable[[str], Path]) -> None:
    for field, value in {"model_type": "x" * 10**6, "architectures": ["y" * 10**6], "num_hidden_layers": "9" * 10**6}.items():
        # Of model_type and class either would do where the other says nothing.
        other = {"model_type": "architectures", "architectures": "model_type"}.get(field)
        config = {name: kept for name, kept in corpus.config_of("llama2").items() if name != other}
        error = plan(checkpoints("llama2"), {**config, field: value})
        assert error is not None
        assert len(str(error)) < 10_000


@pytest.mark.parametrize(
    "args",
    [
        {"tensor_model_parallel_size": 2**53}, {"pipeline_model_parallel_size": 10**9}, {"expert_model_parallel_size": 10**9},
        {"num_layers": 10**18}, {"num_experts": 10**18}, {"noop_layers": "1," * 10_000 + "1"}, {"noop_layers": [float("inf")]},
        {"num_layer_list": "9" * 5000}, {"mtp_num_layers": 10**12}, {"model_type_hf": []}, {"moe_layer_freq": "x"},
        {"num_layers_per_virtual_pipeline_stage": 0}, {"padded_vocab_size": -1}, {"mtp_copies": 7},
    ],
    ids=lambda args: next(iter(args)),
)  # fmt: skip
def test_saved_args_that_lie_are_refused(tmp_path: Path, args: dict[str, Any]) -> None:
    corpus.write_checkpoint("qwen3-moe", tmp_path / "hf")
    path, saved, tree = corpus.write_ranks(tmp_path / "hf", "qwen3-moe", tmp_path / "ranks")
    path.write_bytes(corpus.torch_file({"args": Namespace(**{**saved, **args}), **tree}))
    places = {
        "source": {"format": "mindspeed-llm", "path": str(tmp_path / "ranks")},
        "target": {"format": "huggingface", "path": "/nowhere/o"},
    }
    with quick():
        make_plan(places)
