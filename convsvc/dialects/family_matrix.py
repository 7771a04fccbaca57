"""What can be done with every family, from the declarations: where it is read and written, how quantised, and who has judged it."""

from __future__ import annotations

from typing import Any

from convsvc.dialects import sources, target_of
from convsvc.dialects.adaptable import no_linear_layer
from convsvc.dialects.family_example import example_model, example_models
from convsvc.dialects.huggingface.layout import lay_model
from convsvc.dialects.huggingface.quantised import encode_layers
from convsvc.dialects.judged import JUDGED
from convsvc.dialects.layout import Layout
from convsvc.encodings.known import ENCODINGS
from convsvc.errors import ConvsvcError, JobError
from convsvc.families import FAMILIES, Family
from convsvc.models.diffusion import Diffusion
from convsvc.models.model import Model
from convsvc.spec import parse_target
from convsvc.spec.formats import sides

IN, OUT = "in", "out"


def matrix() -> list[dict[str, Any]]:
    """A record a family: `formats` says where it is read and written, `reads` and `writes` the encodings.

    Of the formats in `some` that holds for some of the family's models: others have tensors that there is no place for.
    """
    return [record(FAMILIES[name]) for name in FAMILIES]


def record(family: Family) -> dict[str, Any]:
    """What can be done with one family. Pure."""
    model = example_model(family)
    places = {name: [ways(name, each) for each in example_models(family)] for name in both_sides()}
    layout = lay_model(model) if family.decoder and not isinstance(family, Diffusion) else None
    return {
        "name": family.name,
        "title": family.title,
        "formats": {name: max(each, key=len) for name, each in places.items()},
        "some": [name for name, each in places.items() if any(each) and not all(each)],
        "reads": sorted(ENCODINGS) if layout is not None and adaptable(layout) else [],
        "writes": encodable(layout) if layout is not None else [],
        "mtp": family.mtp is not None,
        "lora": layout is not None and adaptable(layout) > 0,
        "judged_by": sorted(client for client, names in JUDGED.items() if family.name in names),
    }


def both_sides() -> list[str]:
    """The formats that models are read from or written to, by what a user types; not those of adapters alone."""
    return sorted({*sides("SOURCE"), *sides("TARGET")} - {source.adapters for source in sources() if source.adapters})


def ways(name: str, model: Model) -> list[str]:
    """Whether a model is read from a format, and written to it: where that has a place for it."""
    if not has_place(name, model) or (not model.family.decoder and has_place(name, example_model(FAMILIES["llama2"]))):
        return []  # a model without a text decoder has formats of its own
    return [way for way, side in ((IN, "SOURCE"), (OUT, "TARGET")) if name in sides(side)]


def has_place(name: str, model: Model) -> bool:
    """Whether a format holds every tensor of the model; of a model without its MTP layers, where it holds all others."""
    target = target_of(name)
    shapes = [model] if not model.num_mtp else [model, example_model(model.family, num_mtp=0)]
    for each in shapes:
        try:
            target.layout(each, target.settings(parse_target({"format": name, "path": "/"}), each))
        except (ConvsvcError, KeyError):  # KeyError: a decoder's size, which a model without a text decoder does not have
            continue
        return True
    return False


def encodable(layout: Layout) -> list[str]:
    """The encodings that Hugging Face's target finds weights for: what it would do if a job asked for each."""
    dtypes = ["BF16"] * len(layout.kinds)

    def finds(name: str) -> bool:
        try:
            return bool(encode_layers(name, layout, dtypes, None))
        except JobError:
            return False

    return [name for name in sorted(ENCODINGS.writers) if finds(name)]


def adaptable(layout: Layout) -> int:
    """Of how many stored tensors' kinds an A and a B are taken."""
    return sum(no_linear_layer(laid) is None for laid in layout.kinds)


def markdown() -> str:
    """The matrix as a table, with a link to every family's page."""
    records = sorted(matrix(), key=lambda each: str(each["name"]).lower())
    places = [name for name in both_sides() if any(each["formats"][name] for each in records)]
    head = ["family", *places, "encodings read", "encodings written", "MTP", "LoRA", "judged by"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for each in records:
        marks = [", ".join(each["formats"][name]) + (" (some)" if name in each["some"] else "") for name in places]
        reads = "all" if each["reads"] else ""
        cells = [f"[{each['title']}]({each['name']}.md): `{each['name']}`", *marks, reads, ", ".join(each["writes"])]
        lines.append("| " + " | ".join([*cells, _mark(each["mtp"]), _mark(each["lora"]), ", ".join(each["judged_by"])]) + " |")
    read = ", ".join(f"`{name}`" for name in sorted(ENCODINGS))
    some = "(some): of the family's models some have tensors, such as biases or norms, that the format has no place for."
    return "\n".join([*lines, "", some, f"Encodings that are read: {read}.", ""])


def _mark(yes: bool) -> str:
    return "yes" if yes else ""
