"""docs/report.png anew: `python -m tests.browser.screenshot` runs the demo and takes a picture of its page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.browser.chrome import open_browser

PICTURE = Path(__file__).parents[2] / "docs" / "report.png"
WIDTH, HEIGHT = 1100, 1092


def main() -> None:
    with TemporaryDirectory() as folder:
        run = Path(folder) / "demo"
        settings = ["--run-dir", str(run), "--no-cache", "--display", "plain"]  # with what a first run costs
        subprocess.run([sys.executable, "-m", "icm_api.cli", "demo", *settings], check=True)
        take(run / "report.html", PICTURE)
    print(PICTURE)


def take(page: Path, picture: Path) -> None:
    """The top of a page as a person with a light screen sees it, without scroll bars."""
    with open_browser(WIDTH, HEIGHT) as browser:
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        light = {"features": [{"name": "prefers-color-scheme", "value": "light"}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", light)
        browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
        browser.get(page.as_uri())
        browser.save_screenshot(str(picture))


if __name__ == "__main__":
    main()
