"""The HTTP interface as a document: `python -m convsvc.service.openapi > docs/openapi.json`."""

from __future__ import annotations

import json
import sys

from convsvc.service.app import create_app
from convsvc.service.settings import Settings


def openapi_text() -> str:
    """OpenAPI of this version, as it is committed. The program's version is left out: it would change the file at each release."""
    document = create_app(Settings(database_url="sqlite://")).openapi()
    document["info"]["version"] = "1"
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(openapi_text())
