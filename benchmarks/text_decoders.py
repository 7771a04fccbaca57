"""The text decoders of published multimodal models: planned alone, to every framework's files, and there and back to the whole directory.

    python -m benchmarks.text_decoders DIRECTORY                     a table: a row for each model of more than text
    python -m benchmarks.text_decoders DIRECTORY --only NAME,NAME    some of them

DIRECTORY is that of `benchmarks.field`. Headers alone are read and written; weights are holes. On the way back the target's files are those
that the plan says, and are read again: every tensor of the published directory must come back, of its dtype and shape.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.field import Published, list_published, read_published
from benchmarks.sparse_models import write_sparse_target
from convsvc.errors import ConvsvcError
from convsvc.models.detect import text_part
from convsvc.models.facts import Facts
from convsvc.plan.plan import Plan
from convsvc.plan.planner import make_plan

TARGETS: Mapping[str, Mapping[str, Any]] = {
    "MindSpeed-LLM": {"format": "mindspeed-llm"},
    "Megatron": {"format": "megatron"},
    "DCP": {"format": "dcp"},
}
TEXT = ["text_decoder"]
# What the weights of a quantised layer are stored as.
PARTS = re.compile(r"(\.(qweight|qzeros|scales|g_idx)|[._](weight_)?(packed|shape|scale|scale_inv|scale_2)|\.(input|output)_scale)$")


def is_multimodal(published: Published) -> bool:
    """Whether the configuration has parts for something else than text."""
    try:
        values = json.loads(published.config or "{}")
    except ValueError:
        return False
    found = text_part(Facts(values, "config.json"))
    return bool(found.steps or found.others)


def there_and_back(root: Path, target: Mapping[str, Any], expected: Mapping[str, tuple[str, tuple[int, ...]]]) -> tuple[str, str]:
    """The text decoder's family, and `whole`: the directory comes back; or the first line of a refusal, or what does not come back."""
    there, back = root.parent / "there", root.parent / "back"
    source = {"format": "huggingface", "path": str(root), "modules": TEXT}
    try:
        plan = make_plan({"source": source, "target": {**target, "path": str(there)}})
        write_target(plan, there)
        again = {"format": target["format"], "path": str(there)} | ({"modules": TEXT} if target["format"] == "dcp" else {})
        result = make_plan({"source": again, "target": {"format": "huggingface", "path": str(back), "config_dir": str(root)}})
    except ConvsvcError as error:
        return "", "refused: " + str(error).splitlines()[0].replace(f"{root}/", "").replace(str(root), root.name)
    finally:
        shutil.rmtree(there, ignore_errors=True)
    have = {each.name: (each.dtype, tuple(each.shape)) for each in result.target_tensors}
    other = sorted(name for name in have.keys() | expected.keys() if have.get(name) != expected.get(name))
    if other and any(PARTS.search(name) for name in other) and set(map(weight_of, have)) == set(map(weight_of, expected)):
        return plan.model_type, "whole, decoded"
    return plan.model_type, f"{len(other)} differ: {other[0]}" if other else "whole"


def weight_of(name: str) -> str:
    """What a stored tensor is a part of, where it is one of a quantised weight."""
    return PARTS.sub("", name).removesuffix(".weight")


def write_target(plan: Plan, target: Path) -> None:
    """What a conversion would leave, with holes for weights."""
    write_sparse_target(plan, target)
    for side in plan.side_files:
        if side.copy_from is not None:
            (target / side.path).parent.mkdir(parents=True, exist_ok=True)
            (target / side.path).write_bytes(Path(side.copy_from).read_bytes())


def outcomes(path: Path) -> tuple[str, dict[str, tuple[str, str]]] | None:
    """By the targets' titles, of a multimodal model; None of another."""
    published = read_published(path)
    if not is_multimodal(published) or not published.tensors:
        return None
    with tempfile.TemporaryDirectory(prefix="text-decoders-") as folder:
        root = published.write(Path(folder))
        return published.name, {title: there_and_back(root, target, published.tensors) for title, target in TARGETS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--only", default="", help="names, with commas between")
    parser.add_argument("--processes", type=int, default=1, help="so many checkpoints at a time")
    given = parser.parse_args()
    print("| checkpoint | family | " + " | ".join(TARGETS) + " |\n|---|---|" + "---|" * len(TARGETS))
    with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
        for found in pool.map(outcomes, list_published(given.directory, set(filter(None, given.only.split(","))))):
            if found is not None:
                name, said = found
                family = next((each for each, _ in said.values() if each), "")
                print(f"| {name} | {family} | " + " | ".join(text for _, text in said.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
