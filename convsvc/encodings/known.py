"""Which encodings there are: the modules of this folder that recognise weights (`claim`); and the weights of a checkpoint by them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType
from typing import Any, cast

from convsvc.encodings.base import Claim, Encoding, Look, Writer, values_under
from convsvc.encodings.compressed_tensors import online_transforms

PACKAGE = "convsvc.encodings"


class Encodings(Mapping[str, Encoding]):
    """The encodings by name. They are found when one is first asked for."""

    @cached_property
    def _found(self) -> Mapping[str, Encoding]:
        modules: dict[str, Any] = {
            each.name: import_module(f"{PACKAGE}.{each.name}") for each in iter_modules(import_module(PACKAGE).__path__)
        }
        return MappingProxyType(cast("dict[str, Encoding]", {name: each for name, each in modules.items() if hasattr(each, "SIGNS")}))

    @cached_property
    def by_sign(self) -> Mapping[str, tuple[Encoding, ...]]:
        """Who is asked about a name with this ending."""
        signs = dict.fromkeys(sign for each in self.values() for sign in each.SIGNS)
        return {sign: tuple(each for each in self.values() if sign in each.SIGNS) for sign in signs}

    @cached_property
    def writers(self) -> Mapping[str, Writer]:
        """Those that write, by what a job calls them."""
        return {each.WRITTEN_AS: cast("Writer", each) for each in self.values() if hasattr(each, "WRITTEN_AS")}

    def writing(self, name: str) -> Writer:
        """The encoding of this name, as one that writes."""
        return cast("Writer", self[name])

    def __getitem__(self, name: str) -> Encoding:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


ENCODINGS = Encodings()


def signs_of(name: str) -> Iterator[str]:
    """The signs that a tensor's name ends with."""
    return (sign for sign in ENCODINGS.by_sign if name.endswith(sign))


def claims(name: str, look: Look) -> Iterator[Claim]:
    """The weights that the tensor of this name is a sign of. Raises as `Encoding.claim`."""
    for sign in signs_of(name):
        for encoding in ENCODINGS.by_sign[sign]:
            found = encoding.claim(name.removesuffix(sign), sign, look)
            if found is not None:
                yield found


def unread_words(look: Look) -> str | None:
    """What a configuration says of all its weights that is not read, in words that follow "is quantised: "; None where it is nothing."""
    online = online_transforms(look)
    return f"transforms while the model computes (transform_config, {online[0]})" if online else None


def said_under(config: Any, name: str) -> tuple[Any, ...]:
    """Every value that a configuration has under this name, without repetition."""
    found: list[Any] = []
    for value in values_under(config, name):
        if value not in found:
            found.append(value)
    return tuple(found)
