"""Every rank has a strategy file; those of a stage are mostly the same bytes."""

from __future__ import annotations

from pathlib import Path

from convsvc.formats.strategy.binary import to_binary
from convsvc.formats.strategy.reader import read_strategies, read_strategy
from convsvc.formats.strategy.records import ParameterLayout, stage_strategy


def test_the_same_bytes_are_parsed_once_and_others_are_not_taken_for_them(tmp_path: Path) -> None:
    for rank in range(6):
        strategy = stage_strategy(rank // 3, [ParameterLayout("w", (3,), ((0,), ()))])
        (tmp_path / f"ckpt_strategy_rank_{rank}.ckpt").write_bytes(to_binary(strategy))
    paths = [tmp_path / f"ckpt_strategy_rank_{rank}.ckpt" for rank in range(6)]
    read = list(read_strategies([str(path) for path in paths]))
    assert [strategy.stage for strategy in read] == [0, 0, 0, 1, 1, 1]
    assert len({id(strategy) for strategy in read}) == 2
    assert read == [read_strategy(str(path)) for path in paths]
