"""`mm-convert --submit`: the service writes what the command would write here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from convsvc.cli.mm_convert import main
from convsvc.client import Client
from tests.golden.diffusion_inputs import published_tensors, write_published
from tests.golden.mindspeed_mm_corpus import cases, digest
from tests.golden.test_mm_convert import argv_of, check, prepare

pytestmark = pytest.mark.not_for_transformers
# A vision-language model, a diffusion model, a torch distributed checkpoint.
SUBMITTED = ("q2vl-h2m-tp2-pp1", "wan-h2m", "gen-h2d-prefix")


def test_a_command_of_each_kind_is_carried_out_by_the_service(service_url: str, tmp_path: Path) -> None:
    chosen = [case for case in cases() if case.id in SUBMITTED]
    assert len(chosen) == len(SUBMITTED)
    for case in chosen:
        places = prepare(case, tmp_path / case.id)
        for step in case.steps:
            assert main([*argv_of(step, places), f"--submit={service_url}"]) == 0
        check(case, places)
    with Client(service_url) as client:
        assert {job.state for job in client.jobs().jobs} == {"succeeded"}
        assert len(client.jobs().jobs) == len(SUBMITTED)


def test_one_torch_file_stays_in_a_directory_of_its_name(service_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_published("vace_civitai", 1, tmp_path / "in")
    sent = f"--submit={service_url}"
    assert main(["VACEConverter", "hf_to_mm", f"--cfg.source_path={source}", f"--cfg.target_path={tmp_path / 'ranks'}", sent]) == 0
    out = tmp_path / "out.pt"
    assert main(["VACEConverter", "mm_to_hf", f"--cfg.source_path={tmp_path / 'ranks'}", f"--cfg.target_path={out}", sent]) == 0
    assert f"{out}/model.pt" in capsys.readouterr().err
    found = torch.load(out / "model.pt", weights_only=True)
    assert {name: digest(tensor) for name, tensor in found.items()} == published_tensors("vace_civitai", 1)
    assert not list(tmp_path.glob("*.converted*"))
