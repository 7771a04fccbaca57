"""Puts the results that lie in benchmarks/results into docs/performance.md.

    python -m benchmarks.report

Each is put between its own two marks, `<!-- results: NAME -->` and `<!-- end -->`; what stands there is replaced.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from benchmarks.results import FOLDER, render

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
MARKS = re.compile(r"(?P<head><!-- results: (?P<name>[\w-]+) -->\n).*?(?P<tail><!-- end -->)", re.DOTALL)


def fill(page: str, folder: Path) -> str:
    """The page with the tables of all results that are there; the others stay as they are."""

    def put(found: re.Match[str]) -> str:
        path = folder / f"{found['name']}.json"
        if not path.exists():
            return found[0]
        return f"{found['head']}{render(json.loads(path.read_text()))}{found['tail']}"

    return MARKS.sub(put, page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=FOLDER)
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    given.page.write_text(fill(given.page.read_text(), given.results))


if __name__ == "__main__":
    main()
