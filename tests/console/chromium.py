"""A real Chromium, driven by its own driver: both are Debian's packages, which `.ci/run` installs."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

PATIENCE_S = 120  # until a page shows what it must: no test judges the clock
# Without the later ones it tries to reach its maker at every start.
ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
Found = TypeVar("Found")


@contextmanager
def chromium(profile: Path) -> Iterator[Chrome]:
    """A browser with an empty profile. Skips where there is none: CI has it."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        missing = "no chromium and chromedriver on this machine: apt-get install chromium chromium-driver"
        # CI has both: there it is a fault that they are missing.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = program
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = Chrome(options=options, service=Service(driver))
    try:
        browser.set_page_load_timeout(PATIENCE_S)
        yield browser
    finally:
        browser.quit()


def until(look: Callable[[], Found], what: str) -> Found:
    """What `look` finds, as soon as that is anything; an element that was replaced meanwhile is looked for again."""
    from selenium.common.exceptions import WebDriverException

    deadline, last = time.monotonic() + PATIENCE_S, None
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found
        except WebDriverException as error:
            last = error
        time.sleep(0.05)
    raise AssertionError(f"{PATIENCE_S} s, and {what} was not seen; last: {last}")


def look_like(browser: Chrome, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
    """The window's size, and the scheme that the person prefers."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def findings(browser: Chrome, axe: str) -> list[str]:
    """What axe-core has to say of the page that is serious, or worse."""
    browser.execute_cdp_cmd("Runtime.evaluate", {"expression": axe})  # not as a script of the page: its policy would forbid that
    run = "const done = arguments[0]; axe.run(document).then((all) => done(all.violations), (error) => done([{id: String(error)}]))"
    browser.set_script_timeout(PATIENCE_S)
    found: list[dict[str, Any]] = browser.execute_async_script(run)
    worst = [item for item in found if item.get("impact") in ("serious", "critical", None)]
    return [f"{item['id']}: {[node['html'][:200] for node in item.get('nodes', [])][:3]}" for item in worst]
