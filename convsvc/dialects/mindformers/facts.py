"""What is known of the model: a configuration beside the weights or elsewhere, what the job states, and what the tensors show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convsvc.blocks.mtp import MTP_EMBEDDING, MTP_OUTPUT
from convsvc.dialects.json_files import read_json
from convsvc.dialects.mindformers.job import MindFormersSource
from convsvc.dialects.mindformers.seen_sizes import Shapes, check_seen, guess_family, see_sizes
from convsvc.errors import JobError
from convsvc.models.facts import Facts
from convsvc.roots import RootedPath, Roots

CONFIG = "config.json"


def find_facts(source: MindFormersSource, root: RootedPath, shapes: Shapes, roots: Roots) -> Facts:
    """The facts. Raises JobError or SourceError where two of the three contradict each other."""
    config, origin = _config(source, root, roots)
    stated = source.architecture.model_dump(exclude_none=True) if source.architecture else {}
    seen = see_sizes(shapes, {**config, **stated})
    check_seen(seen, stated, "source.architecture", str(root))
    # The layout that follows from a configuration is held against the tensors' shapes; a layer more or less shows in none of them.
    check_seen({"num_layers": seen["num_layers"]}, config, origin, str(root))
    facts = Facts(config, origin).stating(stated) if config else Facts(stated, "source.architecture and the tensors")
    if "model_type" not in facts.values and "architectures" not in facts.values:
        seen |= guess_family(shapes)
    known = {name: value for name, value in seen.items() if facts.get(name) is None}
    # Training shares an MTP layer's embedding and head with the model; published checkpoints repeat both.
    copies = [f"mtp.layers.{number}.{each.name}" for number in range(seen.get("mtp_num_layers", 0)) for each in (MTP_EMBEDDING, MTP_OUTPUT)]
    return Facts({**facts.values, **known, "mtp_copies": copies}, facts.origin)


def _config(source: MindFormersSource, root: RootedPath, roots: Roots) -> tuple[Mapping[str, Any], str]:
    if source.config_dir is not None:
        folder = RootedPath(source.config_dir, roots)
        if not (folder / CONFIG).is_file():
            raise JobError(f"source.config_dir: {folder} has no {CONFIG}")
        return read_json(folder / CONFIG), str(folder / CONFIG)
    if (root / CONFIG).is_file():
        return read_json(root / CONFIG), str(root / CONFIG)
    return {}, ""
