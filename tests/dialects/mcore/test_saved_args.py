"""What a new checkpoint's args say: the model and its own layout, nothing of the machine a source was trained on."""

from __future__ import annotations

from convsvc.dialects.mcore.grid import Parallel
from convsvc.dialects.mcore.saved_args import compose_args
from convsvc.dialects.mcore.saved_layout import parallel_of
from convsvc.dialects.mcore.settings import Settings
from convsvc.dialects.mindspeed_llm.target import TARGET
from convsvc.families import FAMILIES, Facts

CONFIG = {
    "num_hidden_layers": 6,
    "hidden_size": 64,
    "vocab_size": 128,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 96,
    "rope_scaling": {"type": "linear", "factor": 2.0},
}
RUN = {
    "save": "/shared/run",
    "load": "/shared/old",
    "data_path": ["/data/a"],
    "wandb_project": "p",
    "rank": 3,
    "world_size": 8,
    "log_file": "x",
}


def args_of(config: dict[str, object], parallel: Parallel) -> dict[str, object]:
    facts, settings = Facts(config, "test"), Settings(parallel, 128)
    model = FAMILIES["llama2"].build(facts)
    return vars(compose_args(model, settings, facts, own=TARGET.own_args(model, settings, facts)))


def test_nothing_of_a_training_run_is_handed_on() -> None:
    args = args_of({**CONFIG, **RUN}, Parallel())
    assert not set(RUN) & set(args)
    assert not [value for value in args.values() if isinstance(value, str) and value.startswith("/")]


def test_the_configuration_is_there_under_both_names() -> None:
    args = args_of(CONFIG, Parallel())
    assert (args["num_key_value_heads"], args["num_query_groups"], args["group_query_attention"]) == (4, 4, True)
    assert args["rope_scaling"] == CONFIG["rope_scaling"]


def test_a_layout_is_read_back_as_it_was_written() -> None:
    parallel = Parallel(tp=2, pp=2, etp=2, noop=(0, 7), dualpipev=True)
    assert parallel_of(Facts(args_of(CONFIG, parallel), "test")) == parallel


def test_a_sources_layout_is_not_handed_on() -> None:
    first = args_of(CONFIG, Parallel(pp=2, noop=(0, 7), dualpipev=True))
    again = args_of(first, Parallel(tp=2, etp=2))
    assert parallel_of(Facts(again, "test")) == Parallel(tp=2, etp=2)
