"""The drop-in for MindSpeed-MM's `mm-convert`: its converters and arguments, our conversion.

    mm-convert GenericDCPConverter hf_to_dcp --hf_dir /hf --dcp_dir /dcp --dcp_prefix model.
    mm-convert Qwen2VLConverter hf_to_mm --config convert.yaml --cfg.parallel_config.tp_size 2

The arguments become a job, which runs here or, with `--submit URL`, on the service. Exit status 0, or 2 with one line on stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from convsvc.cli.drop_in import guarded


def main(argv: Sequence[str] | None = None) -> int:
    """Convert as `argv` (default: the command line) says. Returns 0, or 2 after one line on stderr."""
    return guarded("mm-convert", lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def job_of(argv: Sequence[str]) -> dict[str, Any]:
    """The job that a command line describes. Looks at configuration files, and at a config.json where the converter's names depend on it.

    Raises JobError for what is wrong, and for what is not converted.
    """
    from convsvc.cli.mm_convert.parsing import parse
    from convsvc.cli.mm_convert.running import job_from

    return job_from(parse(argv))


def _run(argv: list[str]) -> int:
    import os

    from convsvc.cli.mm_convert.environment import SWITCH, unread
    from convsvc.cli.mm_convert.parsing import parse
    from convsvc.cli.mm_convert.running import run
    from convsvc.cli.terminal import say

    asked = parse(argv)
    if os.environ.get(SWITCH, "").lower() != "true" and (advice := unread(argv, os.environ)):
        say(advice, err=True)
    return run(asked)
