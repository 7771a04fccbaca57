"""Modules beside a text decoder: towers for images or sound with their projectors, or all there is of a diffusion model. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from convsvc.errors import SourceError
from convsvc.models.facts import Facts, shown
from convsvc.models.scope import LayerRows, Rows, Scope

Sizes = Mapping[str, int]
# A step into a configuration: the names that a nested one may have there.
Step = tuple[str, ...]
# What a nested configuration says of itself and not of the model around it.
OF_ITSELF = ("model_type", "architectures", "transformers_version", "auto_map", "_name_or_path")
TIES = ("tie_word_embeddings", "tie_embeddings")
# The field of a flat configuration in which stands what the nested one called its model_type.
TEXT_KIND = "text_model_type"


@dataclass(frozen=True, slots=True)
class Tower:
    """A module with a stack of layers of its own, or with none.

    `part` is the field of the configuration that describes it (none: the whole configuration does), `count` the field, or the function,
    that says how many layers it has. `sizes` finds the axes' sizes from the module's own facts and the model's (flat, see `flatten`).
    `before` and `after` are rows for what lies before and behind the layers (a patch embedding; a norm, a projector), `layer` a layer's, or
    a function of the module's facts and the layer's number. `prefix` goes before all of Hugging Face's names, `layer_prefix` between it and
    a layer's. `beside` finds further rows of a layer that lie under another prefix, which goes behind `prefix`. `there` says whether a
    model has the module at all. `unsure` are axes of which the configuration says too little: stored shapes say how long they are.
    """

    name: str
    part: str | None
    sizes: Callable[[Facts, Facts], Sizes]
    before: Rows = ()
    layer: Rows | Callable[[Facts, int], LayerRows] = ()
    after: Rows = ()
    prefix: str = ""
    layer_prefix: str = "layers.{layer}."
    count: str | Callable[[Facts], int] | None = None
    there: Callable[[Facts], bool] | None = None
    beside: Callable[[Facts, int], tuple[tuple[str, Rows], ...]] | None = None
    unsure: tuple[str, ...] = ()

    def own(self, facts: Facts) -> Facts:
        """The module's part of a configuration. Raises SourceError where that is no object."""
        if self.part is None:
            return facts
        values = facts.get(self.part, default={})
        if not isinstance(values, Mapping):
            raise SourceError(f"{facts.origin}: {self.part} is {shown(values)}; it must be an object, which describes the {self.name}")
        return Facts(values, f"{facts.origin}, {self.part}")

    def num_layers(self, facts: Facts) -> int:
        """How many layers the model has of it. Raises SourceError where the configuration does not say."""
        if self.count is None:
            return 0
        own = self.own(facts)
        return own.number(self.count) if isinstance(self.count, str) else self.count(own)

    def is_there(self, facts: Facts) -> bool:
        return self.there is None or self.there(facts)

    def scopes(self, facts: Facts) -> Iterator[Scope]:
        """The module's scopes: what lies before its layers, they, and what lies behind. Raises SourceError."""
        own = self.own(facts)
        sizes = dict(self.sizes(own, facts))
        logical = f"{self.name}."
        if self.before:
            yield Scope("embedding", logical, self.prefix, _held(self.before, sizes), sizes, module=self.name)
        for number in range(self.num_layers(facts)):
            made = self.layer(own, number) if callable(self.layer) else LayerRows(self.layer)
            prefix = self.prefix + self.layer_prefix.format(layer=number)
            its = {**sizes, **made.sizes}
            own_logical = f"{logical}layers.{number}."
            yield Scope("layer", own_logical, prefix, _held(made.rows, its), its, number, made.dense, self.name)
            for behind, rows in self.beside(own, number) if self.beside else ():
                yield Scope("part", own_logical, self.prefix + behind, _held(rows, its), its, number, made.dense, self.name)
        if self.after:
            yield Scope("output", logical, self.prefix, _held(self.after, sizes), sizes, module=self.name)


def _held(rows: Rows, sizes: Sizes) -> Rows:
    """The rows that there are: where an axis is 0 long, there is nothing. Publishers quantise no towers: they have no `linear` rows."""
    there = (row for row in rows if all(sizes.get(axis) != 0 for each in row.logicals for axis in each.axes))
    return tuple(row if row.linear is None else replace(row, linear=None) for row in there)


def flatten(facts: Facts, inside: tuple[Step, ...]) -> Facts:
    """The configuration of a model of several modules as a text model's: what it says of the text lies at the top, other parts beside.

    `inside` are the steps to the text's part; one that is not there is left out, for the same model's configuration may be flat. What the
    outer one says of itself stays; whether embeddings are tied is the outer one's word, where it has one.

    >>> nested = {"model_type": "qwen2_vl", "text_config": {"model_type": "qwen2_vl_text", "hidden_size": 8}, "vision_config": {"depth": 2}}
    >>> dict(flatten(Facts(nested, "config.json"), (("text_config",),)).values)
    {'model_type': 'qwen2_vl', 'vision_config': {'depth': 2}, 'text_model_type': 'qwen2_vl_text', 'hidden_size': 8}
    """
    values = dict(facts.values)
    for step in inside:
        name = next((name for name in step if isinstance(values.get(name), Mapping)), None)
        if name is None:
            continue
        inner = values.pop(name)
        stays = {each for each in (*OF_ITSELF, *TIES) if values.get(each) is not None}
        values |= {TEXT_KIND: inner["model_type"]} if isinstance(inner.get("model_type"), str) else {}
        values |= {field: value for field, value in inner.items() if field not in stays and field not in OF_ITSELF}
    return Facts(values, facts.origin) if len(inside) else facts


def text_kind(facts: Facts, inside: tuple[Step, ...]) -> str | None:
    """The model_type of the text's part, of a configuration that nests one or that was made flat."""
    kind = flatten(facts, inside).get(TEXT_KIND)
    return kind if isinstance(kind, str) else None


def spread(config: Mapping[str, object], changes: Mapping[str, object], inside: tuple[Step, ...]) -> dict[str, object]:
    """A configuration with changes to what it says when it is flat: each where the field is said, else in the innermost part.

    >>> spread({"vocab_size": 1, "text_config": {"vocab_size": 1}}, {"vocab_size": 2, "head_dim": 4}, (("text_config",),))
    {'vocab_size': 2, 'text_config': {'vocab_size': 2, 'head_dim': 4}}
    """
    config = dict(config)
    step = inside[0] if inside else ()
    name = next((name for name in step if isinstance(config.get(name), Mapping)), None)
    if name is None:
        return spread(config, changes, inside[1:]) if len(inside) > 1 else config | dict(changes)
    here = {field: value for field, value in changes.items() if field in config}
    inner = config[name]
    assert isinstance(inner, Mapping)
    below = {field: value for field, value in changes.items() if field not in here or _is_said(inner, field, inside[1:])}
    return config | here | {name: spread(inner, below, inside[1:])}


def _is_said(config: Mapping[str, object], field: str, inside: tuple[Step, ...]) -> bool:
    return field in flatten(Facts(config, ""), inside).values
