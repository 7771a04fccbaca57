"""A draft as the text of a family file, with the reason beside each guess. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from convsvc.models.draft import Draft, Guess

HEAD = '''"""{title}: a draft. {share:.0%} of its layers' names are those of {nearest}, the nearest family.

Rows named after a table are that table's: check that the same name means the same here. `own` rows are new: a logical tensor each, whose
axes were guessed by their lengths. Read the model's code for the order of what is merged in one axis (docs/adding-a-family.md).
"""
'''


def draft_text(draft: Draft) -> str:
    """The file, ready to be saved in convsvc/families/."""
    lines = [HEAD.format(title=_title(draft), share=draft.nearest_share, nearest=draft.nearest), *_imports(draft), ""]
    for members, guesses in _parts(draft).items():
        count = sum(draft.pattern.count(kind) for kind in members)
        said = "every layer" if len(members) == len(draft.kinds) else f"{count} layers: {_numbers(draft.pattern, members)}"
        lines += [f"# In {said}.", *_table(_part_name(draft, members), guesses)]
    lines += ["# Outside of the layers.", *_table("ENDS", draft.ends), ""]
    lines += [*_own_sizes(draft), *_layer(draft), *_family(draft)]
    return "\n".join(lines)


def _parts(draft: Draft) -> dict[tuple[int, ...], list[Guess]]:
    """The layers' rows by the kinds that have them."""
    parts: dict[tuple[int, ...], list[Guess]] = {}
    for guess in dict.fromkeys(guess for kind in draft.kinds for guess in kind):
        parts.setdefault(tuple(number for number, kind in enumerate(draft.kinds) if guess in kind), []).append(guess)
    return dict(sorted(parts.items(), key=lambda part: -len(part[0])))


def _part_name(draft: Draft, members: tuple[int, ...]) -> str:
    return "EVERY" if len(members) == len(draft.kinds) else "IN_" + "_".join(map(str, members))


def _title(draft: Draft) -> str:
    return _names(draft)[0]


def _names(draft: Draft) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """The family's name, its model_types, its architectures."""
    kind = str(draft.facts.get("model_type", default="unknown"))
    return kind.replace("_", "-"), (kind,), tuple(draft.facts.items("architectures", str) or ())


def _guesses(draft: Draft) -> list[Guess]:
    return [guess for kind in (*draft.kinds, draft.ends) for guess in kind]


def _imports(draft: Draft) -> Iterator[str]:
    modules = {guess.table.module for guess in _guesses(draft) if guess.table} | {module for module, _ in draft.sizes}
    yield "from __future__ import annotations"
    yield ""
    yield "from dataclasses import replace"
    yield ""
    for package in ("blocks", "families"):
        for module in sorted(modules | {"convsvc.families.llama2"}):
            if module.startswith(f"convsvc.{package}."):
                yield f"from convsvc.{package} import {module.rpartition('.')[2]}"
    if any(guess.table is None for guess in _guesses(draft)):
        yield "from convsvc.blocks.own import own"
    yield "from convsvc.models.facts import Facts"
    yield "from convsvc.models.family import Family"
    yield "from convsvc.models.scope import LayerRows"


def _table(name: str, guesses: Iterable[Guess]) -> Iterator[str]:
    guesses, lines = list(guesses), []
    while guesses:
        guess = guesses.pop(0)
        if guess.table is None:
            reasons = f"  # {list(guess.shape)}: {'; '.join(guess.reasons)}"
            lines.append(f"own({guess.stored!r}, {' '.join(guess.axes)!r}),{reasons}")
            continue
        where = f"{guess.table.module.rpartition('.')[2]}.{guess.table.name}"
        rest = [each for each in guesses[: len(guess.table.rows) - 1] if each.table == guess.table]
        if guess.at == 0 and len(rest) == len(guess.table.rows) - 1:
            lines.append(f"*{where},  # {', '.join(each.stored for each in (guess, *rest))}")
            guesses = guesses[len(rest) :]
        else:
            lines.append(f"{where}[{guess.at}],  # {guess.stored}")
    yield from (f"{name} = (", *(f"    {line}" for line in lines), ")") if lines else (f"{name} = ()",)


def _numbers(pattern: tuple[int, ...], kinds: tuple[int, ...]) -> str:
    numbers = [str(at) for at, each in enumerate(pattern) if each in kinds]
    return ", ".join(numbers[:6]) + (", ..." if len(numbers) > 6 else "")


def _own_sizes(draft: Draft) -> Iterator[str]:
    if not draft.own_sizes:
        return
    yield "def own_sizes(facts: Facts) -> dict[str, int]:"
    yield '    """The lengths that no known function gives."""'
    yield "    return {"
    for axis, (_, expression, reason) in draft.own_sizes.items():
        yield f'        "{axis}": {expression},  # {reason}'
    yield "    }"
    yield ""
    yield ""


def _layer(draft: Draft) -> Iterator[str]:
    yield "KINDS = ("
    for number in range(len(draft.kinds)):
        yield f"    {' + '.join(_part_name(draft, members) for members in _parts(draft) if number in members)},"
    yield ")"
    dense = tuple(not any("expert" in each for guess in kind for each in _axes(guess)) for kind in draft.kinds)
    yield f"DENSE = {dense!r}"
    if len(draft.kinds) > 1 and draft.decides:
        yield f"BY_{draft.decides[0].upper()} = {dict(draft.decides[1])!r}"
    elif len(draft.kinds) > 1 and _first(draft) is None:
        yield "# No field of the configuration is a list that tells the kinds apart: find what does."
        yield f"PATTERN = {draft.pattern!r}"
    yield ""
    yield ""
    yield "def draft_layer(family: Family, facts: Facts, layer: int) -> LayerRows:"
    yield '    """The rows of a layer of its kind."""'
    yield f"    kind = {_kind(draft)}"
    yield "    return LayerRows(KINDS[kind], dense=DENSE[kind])"
    yield ""
    yield ""


def _axes(guess: Guess) -> Iterable[str]:
    return guess.axes if guess.table is None else [axis for each in guess.table.rows[guess.at].logicals for axis in each.axes]


def _first(draft: Draft) -> str | None:
    """The field that counts the first layers, which are of the first kind and all others of the second."""
    first = draft.pattern.count(0)
    if len(draft.kinds) != 2 or draft.pattern != (0,) * first + (1,) * (len(draft.pattern) - first):
        return None
    fields = draft.facts.values.items()
    return next((name for name, value in fields if value == first and (name == "first_k_dense_replace" or "dense" in name)), None)


def _kind(draft: Draft) -> str:
    if len(draft.kinds) == 1:
        return "0"
    if draft.decides:
        name = draft.decides[0]
        return f'BY_{name.upper()}[str(facts.get("{name}")[min(layer, facts.num_layers - 1)])]'
    first = _first(draft)
    return f'int(layer >= facts.number("{first}"))' if first else "PATTERN[min(layer, len(PATTERN) - 1)]"


def _family(draft: Draft) -> Iterator[str]:
    name, kinds, architectures = _names(draft)
    sizes = [f"{module.rpartition('.')[2]}.{function}" for module, function in draft.sizes] + (["own_sizes"] if draft.own_sizes else [])
    body = [
        "llama2.FAMILY,",
        f"name={name!r},",
        f"title={name!r},",
        f"model_types={kinds!r},",
        f"architectures={architectures!r},",
        "norms=(),",
        "attention=(),",
        "mlp=(),",
        "flags=(),",
        f"sizes=({', '.join(sizes)},)," if sizes else "sizes=(),",
        "layer=draft_layer,",
        "# All ends are in one place here: take them apart where the output may be tied.",
        "embedding=ENDS,",
        "final_norm=(),",
        "output=(),",
        "tied_output=(),",
        f"layer_prefix={draft.layer_prefix!r},",
    ]
    yield "FAMILY = replace("
    yield from (f"    {line}" for line in body)
    yield ")"
    yield ""
