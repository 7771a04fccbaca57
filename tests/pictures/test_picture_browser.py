"""A picture in a real Chromium, from the disk and without network: it shows the numbers, and leads from a tensor to its files and back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from convsvc.cli.main import main
from tests.console.chromium import chromium, findings, look_like, until
from tests.tiny_checkpoints import write_llama

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

HERE = Path(__file__).parent
AXE = (HERE.parent / "console" / "axe" / "axe.min.js").read_text()
PICTURES = HERE.parents[1] / "docs" / "pictures"
KEEP = os.environ.get("CONVSVC_PICTURES") == "1"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        # Nothing is to be had from anywhere.
        browser.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plan.html of a plan to tp 2, pp 2 in two chunks each; hf.html of its source."""
    folder = tmp_path_factory.mktemp("pictures")
    source = write_llama(folder / "hf", layers=4)
    layout = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "num_layers_per_virtual_pipeline_stage": 1}
    target = {"format": "mindspeed-llm", "path": str(folder / "mcore"), **layout}
    (folder / "job.json").write_text(json.dumps({"source": {"format": "huggingface", "path": str(source)}, "target": target}))
    assert main(["plan", str(folder / "job.json"), "--html", str(folder / "plan.html")]) == 0
    assert main(["inspect", str(source), "--html", str(folder / "hf.html")]) == 0
    return folder


def text_of(browser: Chrome, selector: str) -> str:
    return str(browser.find_element("css selector", selector).text)


def texts_of(browser: Chrome, selector: str) -> list[str]:
    return [element.text for element in browser.find_elements("css selector", selector)]


def opened(browser: Chrome, path: Path) -> None:
    browser.get_log("browser")
    browser.get(path.as_uri())
    until(lambda: browser.find_elements("css selector", "#found button"), "the tensors")
    assert browser.get_log("browser") == []


def press(browser: Chrome, selector: str, text: str) -> None:
    def pressed() -> bool:
        found: list[Any] = [one for one in browser.find_elements("css selector", selector) if one.text == text]
        browser.execute_script("arguments[0].click()", found[0]) if found else None
        return bool(found)

    until(pressed, f"{text} in {selector}")


def test_a_plan_leads_from_a_hugging_face_tensor_to_its_rank_files_and_back(browser: Chrome, pages: Path) -> None:
    look_like(browser, height=1400)
    opened(browser, pages / "plan.html")
    assert text_of(browser, "h1") == "huggingface to mindspeed-llm"
    assert "Files: 4," in text_of(browser, "#balance-1")
    assert "times the average" in text_of(browser, "#balance-1")
    browser.find_element("css selector", "#ask").send_keys("layers.2 k_proj")
    until(lambda: texts_of(browser, "#found button") == ["model.layers.2.self_attn.k_proj.weight"], "the one tensor")
    press(browser, "#found button", "model.layers.2.self_attn.k_proj.weight")
    assert "target: in 2 of 4 files" in text_of(browser, "#detail")
    lines = texts_of(browser, "#detail ul[aria-label='files of target'] li")
    # Layer 2 is the second chunk's first on stage 0, of either tensor rank.
    assert [line.split()[0] for line in lines] == [f"iter_0000001/mp_rank_0{rank}_000/model_optim_rng.pt" for rank in range(2)]
    assert all("model1/decoder.layers.0.self_attention.linear_qkv.weight" in line for line in lines)
    assert [line.rpartition("group ")[2] for line in lines] == ["0 of 2", "1 of 2"]
    press(browser, "#detail button", "iter_0000001/mp_rank_01_000/model_optim_rng.pt")
    assert "tensor rank 1, pipeline stage 0" in text_of(browser, "#detail")
    assert text_of(browser, "#holds") == "model0: decoder.layers.0; model1: decoder.layers.2"
    press(browser, "#detail button", "model.embed_tokens.weight")
    assert "vocab 32\N{EN DASH}63 of 64" in text_of(browser, "#detail")
    if KEEP:
        browser.execute_script("window.scrollTo(0, 0)")
        browser.save_screenshot(str(PICTURES / "plan.png"))


def test_a_grid_is_walked_with_the_keyboard(browser: Chrome, pages: Path) -> None:
    look_like(browser, height=1400)
    opened(browser, pages / "plan.html")
    grid = browser.find_element("css selector", "#grid-1")
    grid.send_keys("\ue014\ue014\ue014\ue014")  # right, beyond the last
    until(lambda: "mp_rank_01_001" in text_of(browser, "#says-1"), "the last file")
    assert "embedding" in text_of(browser, "#says-1")
    assert text_of(browser, "#says-1").endswith("nothing")
    grid.send_keys("\n")
    until(lambda: "mp_rank_01_001" in text_of(browser, "#chosen"), "its tensors")
    assert text_of(browser, "#holds") == "model0: decoder.layers.1; model1: decoder.layers.3"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("page", ["plan.html", "hf.html"])
def test_it_is_for_everybodys_eyes(browser: Chrome, pages: Path, page: str, width: int, dark: bool) -> None:
    look_like(browser, width=width, dark=dark)
    opened(browser, pages / page)
    assert not findings(browser, AXE)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    is_painted = "getContext('2d').getImageData(0, 0, grid.width, grid.height).data.some((number) => number)"
    ink = browser.execute_script(f"const grid = document.querySelector('#grid-0'); return grid.{is_painted}")
    assert ink
    look_like(browser)


def test_what_cannot_be_drawn_is_told(pages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(pages / "hf"), "--html", str(pages / "no-such" / "x.html")]) != 0
    assert "cannot be written" in capsys.readouterr().err
    assert main(["plan", str(pages / "job.json"), "--html", "x.html", "--json"]) == 2
    assert main(["inspect", str(pages / "job.json"), "--html", str(pages / "x.html")]) != 0
    assert "single file" in capsys.readouterr().err
    assert not (pages / "x.html").exists()
