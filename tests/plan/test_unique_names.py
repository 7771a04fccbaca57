"""A layout in which two tensors have one name, or that forgets a part of one, is no plan, on whichever side it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from convsvc.dialects.huggingface import source, target
from convsvc.errors import PlanError
from convsvc.plan.planner import make_plan
from tests.tiny_checkpoints import write_llama

V, K = "self_attn.v_proj.weight", "self_attn.k_proj.weight"


class Renaming:
    """A dialect whose layout calls one tensor as another is called, or says that one is longer than what lies in it."""

    def __init__(self, dialect: Any, change: str) -> None:
        self._dialect, self._change = dialect, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dialect, name)

    def layout(self, *args: Any) -> Any:
        layout = self._dialect.layout(*args)
        return replace(layout, kinds=tuple(map(self._changed, layout.kinds)))

    def _changed(self, laid: Any) -> Any:
        if self._change == "name":
            return laid._replace(name=laid.name.replace("v_proj", "k_proj"), also=())
        return laid._replace(blocks=laid.blocks * 2) if laid.name.endswith(K) else laid


@pytest.mark.parametrize(("change", "says"), [("name", "the same name"), ("blocks", "accounts for 256 of its 128")])
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_mistaken_declaration_is_found_before_anything_is_written(
    side: str, change: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huggingface, mcore = ({"format": name, "path": str(tmp_path / name)} for name in ("huggingface", "mindspeed-llm"))
    there, back = {"source": huggingface, "target": mcore}, {"source": mcore, "target": {**huggingface, "path": str(tmp_path / "back")}}
    write_llama(tmp_path / "huggingface")
    convert(there, engine="inline")
    if change == "name":  # else v_proj is left over, which is noticed too
        weights = load_file(tmp_path / "huggingface" / "model.safetensors")
        save_file({name: value for name, value in weights.items() if V not in name}, tmp_path / "huggingface" / "model.safetensors")
    monkeypatch.setattr(source, "SOURCE", Renaming(source.SOURCE, change))
    monkeypatch.setattr(target, "TARGET", Renaming(target.TARGET, change))
    with pytest.raises(PlanError, match=says):
        make_plan({**there, "target": {**mcore, "path": str(tmp_path / "other")}} if side == "source" else back)
