"""transformers' own account of a Hugging Face directory that we wrote: whether every weight was found, and none is left over.

Every target that a test writes is judged (fixtures of all tests call `judge` and `judge_written`), those with equal names, shapes and
configuration once; one that another process wrote is known by the report in it or beside it. What transformers cannot judge is told
apart from what is wrong: it has no class for a few families, and it leaves out MTP layers, which it knows by name.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import warnings
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import safe_open

from convsvc.dialects.output import REPORT
from convsvc.errors import JobError
from convsvc.families import Facts, find_family, text_facts

KINDS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
_SEEN: set[str] = set()
# Reports whose targets need not be looked at again, and when they were written: a service's directories outlive a test.
_PASSED: set[tuple[Path, int]] = set()


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
    if library() is None or not has_class(config) or not can_decode(config):
        return
    signature = json.dumps([config, _shapes(directory)], sort_keys=True)
    if signature not in _SEEN:
        report = loading_report(directory)
        if lacks_biases and all(name.endswith(".bias") for name in report.get("missing_keys", ())):
            report.pop("missing_keys", None)
        assert not report, f"transformers about {directory}: {report}"
        _SEEN.add(signature)


def judge_written(root: Path) -> None:
    """Judges the Hugging Face targets beneath `root` that any process published, and that are still as their reports say.

    What a test breaks on purpose, or a fault of the disk, has other digests than the report. Raises AssertionError as `judge` does.
    """
    for path in reports_beneath(root):
        if (path, path.stat().st_mtime_ns) in _PASSED:
            continue
        report = _read_report(path)
        if report is not None and (target := _target_of(path, report)) is not None and _is_as_reported(target, report):
            texts = [text for kind in report["notes"].values() for text in kind]
            judge(target, lacks_biases=any(text.startswith("the source has no ") for text in texts))
            for each in reports_of(target):
                pass_over(each)
        pass_over(path)


def pass_over_written(root: Path) -> None:
    """What lies beneath `root` by now is not judged."""
    for report in reports_beneath(root):
        pass_over(report)


def pass_over(report: Path) -> None:
    """The target of this report is not judged, or not again."""
    if report.exists():
        _PASSED.add((report, report.stat().st_mtime_ns))


def reports_of(target: Path) -> Iterator[Path]:
    """Where a target's report may lie."""
    yield target / REPORT
    yield target.with_name(f"{target.name}.{REPORT}")


def reports_beneath(root: Path) -> Iterator[Path]:
    """Those of published targets: a hidden folder is somebody's workspace."""
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(folder, name) for name in files if name.endswith(REPORT) and not name.startswith("."))


def _read_report(path: Path) -> dict[str, Any] | None:
    """The report of a conversion to Hugging Face's full weights; None for any other, and for what only bears a report's name."""
    try:
        report = json.loads(path.read_bytes())
        wanted = report["job"]["target"]
        return report if wanted["format"] == "huggingface" and not wanted.get("adapter_only") else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _target_of(path: Path, report: Mapping[str, Any]) -> Path | None:
    """The directory that a report speaks of, by where the report lies: a service may know it by another path."""
    target = path.parent if path.name == REPORT else path.with_name(path.name.removesuffix(f".{REPORT}"))
    return target if target.name == Path(report["target"]["path"]).name and (target / "config.json").is_file() else None


def _is_as_reported(target: Path, report: Mapping[str, Any]) -> bool:
    listed = [*report["target"]["files"], *report["target"]["side_files"]]
    there = {str(path.relative_to(target)) for path in target.rglob("*") if path.suffix in (".safetensors", ".json")}
    known = {each["path"] for each in listed} | {REPORT}
    return {name for name in there if not name.startswith(".")} <= known and all(_is_whole(target / each["path"], each) for each in listed)


def _is_whole(path: Path, said: Mapping[str, Any]) -> bool:
    crc = 0
    if not path.is_file() or path.stat().st_size != said["size_bytes"]:
        return False
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            crc = zlib.crc32(data, crc)
    return f"{crc:08x}" == said["crc32"]


def has_class(config: dict[str, Any]) -> bool:
    """Whether transformers has a class for it that loads the published form: LongCat's (5.23) counts experts that have no weights."""
    return config.get("model_type") in library().CONFIG_MAPPING and not config.get("zero_expert_num")


def can_decode(config: dict[str, Any]) -> bool:
    """Whether the package is there that transformers decodes such weights with."""
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method == "modelopt":  # serving reads it, transformers (5.24) has nothing that does
        return False
    return method != "compressed-tensors" or importlib.util.find_spec("compressed_tensors") is not None


def _class_for(directory: Path) -> Any:
    """The class that loads all of a model: one that sees is no causal language model to transformers, or only half of one."""
    config = json.loads((directory / "config.json").read_text())
    classes = config.get("architectures") or [""]
    head = next((head for head in ("ForSequenceClassification", "ForTokenClassification") if classes[0].endswith(head)), None)
    if head is not None:
        return getattr(library(), f"AutoModel{head}")
    return library().AutoModelForImageTextToText if config.get("vision_config") else library().AutoModelForCausalLM


def loading_report(directory: Path) -> dict[str, list[str]]:
    """What transformers misses, does not expect, or finds in another shape; MTP layers, which it leaves out, apart."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, info = _class_for(directory).from_pretrained(directory, dtype="auto", output_loading_info=True)
    facts = Facts(json.loads((directory / "config.json").read_text()), "config.json")
    try:
        family = find_family(None, facts)
    except JobError:  # of several modules, of which the text decoder's family is known
        facts = text_facts(None, facts, list(_shapes(directory)))
        family = find_family(None, facts)
    facts, mtp = family.flat(facts), family.mtp
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
