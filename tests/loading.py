"""transformers' own account of a Hugging Face directory that we wrote: whether every weight was found, and none is left over.

Every target that this process writes is judged (`judge`, called by a fixture of all tests), those with equal names, shapes and
configuration once. What transformers cannot judge is told apart from what is wrong: it has no class for a few families, and it leaves
out MTP layers, which it knows by name.
"""

from __future__ import annotations

import importlib
import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import safe_open

from convsvc.families import Facts, find_family

KINDS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
_SEEN: set[str] = set()


@cache
def library() -> Any:
    """transformers; None where it is not installed. Its deprecation warnings are not ours to answer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = importlib.import_module("transformers")
        except ImportError:
            return None
    found.utils.logging.disable_progress_bar()
    found.utils.logging.set_verbosity_error()
    return found


def judge(directory: Path, *, lacks_biases: bool = False) -> None:
    """Raises AssertionError unless transformers loads the directory and finds all weights and no others.

    `lacks_biases`: the plan said that the source has none where the model's class has, so that they are missing here too.
    """
    config = json.loads((directory / "config.json").read_text())
    if library() is None or not has_class(config):
        return
    signature = json.dumps([config, _shapes(directory)], sort_keys=True)
    if signature not in _SEEN:
        report = loading_report(directory)
        if lacks_biases and all(name.endswith(".bias") for name in report.get("missing_keys", ())):
            report.pop("missing_keys", None)
        assert not report, f"transformers about {directory}: {report}"
        _SEEN.add(signature)


def has_class(config: dict[str, Any]) -> bool:
    """Whether transformers has a class for it that loads the published form: LongCat's (5.23) counts experts that have no weights."""
    return config.get("model_type") in library().CONFIG_MAPPING and not config.get("zero_expert_num")


def loading_report(directory: Path) -> dict[str, list[str]]:
    """What transformers misses, does not expect, or finds in another shape; MTP layers, which it leaves out, apart."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, info = library().AutoModelForCausalLM.from_pretrained(directory, dtype="auto", output_loading_info=True)
    facts = Facts(json.loads((directory / "config.json").read_text()), "config.json")
    mtp = find_family(None, facts).mtp
    found = {kind: sorted(map(str, info.get(kind, ()))) for kind in KINDS}
    if mtp is not None:
        found["unexpected_keys"] = [name for name in found["unexpected_keys"] if mtp.number_of(name, facts.num_layers) is None]
    return {kind: names for kind, names in found.items() if names}


def _shapes(directory: Path) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = {}
    for file in directory.glob("*.safetensors"):
        with safe_open(file, framework="np") as opened:
            shapes |= {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118 - safe_open is no mapping
    return shapes
