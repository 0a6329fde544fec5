"""A real browser for the tests: Debian's Chromium without a window, and axe, which finds what keeps people out."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

DESKTOP, PHONE = 1200, 320
_TALLEST = 4000
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]


class Browser:
    """One browser with one window."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.base = ""
        found = find_spec("axe_core_python")
        assert found is not None
        assert found.origin is not None
        self._axe = (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8")

    def log_in(self, link: str) -> None:
        """Open a link from `caesar-vote page`; ends on the first page."""
        self.base = link.partition("/login/")[0]
        self.driver.get(link)
        self._until(f"{self.base}/")

    def _until(self, address: str) -> None:
        WebDriverWait(self.driver, 60).until(lambda driver: driver.current_url == address)

    def open(self, path: str, width: int = DESKTOP) -> None:
        """Show a page in a window of some width."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get(self.base + path)

    def run(self, script: str) -> Any:
        """Run a script in the page, as a person's own tools may: what the page itself may load is another thing."""
        return self.driver.execute_script(script)

    @property
    def text(self) -> str:
        """All that is to be read."""
        return str(self.run("return document.body.innerText"))

    def barriers(self) -> list[str]:
        """Say what of the page keeps people out, by axe's rules: one line for each."""
        self.run(self._axe)
        found = self.driver.execute_async_script(
            "const done = arguments[1];"
            "axe.run(document, {runOnly: arguments[0]}).then(done, error => done({violations: [{id: String(error),"
            " help: '', nodes: []}]}))",
            _RULES,
        )
        return [
            f"{each['id']}: {each['help']}: {'; '.join(node['html'][:120] for node in each['nodes'][:3])}"
            for each in found["violations"]
        ]

    def wider_than(self, width: int) -> int:
        """How many pixels of the page stand over the window's edge."""
        return int(self.run("return document.documentElement.scrollWidth")) - width

    def complaints(self) -> list[str]:
        """What the browser complained of since it was last asked: blocked, missing or broken things."""
        return [f"{entry['level']}: {entry['message']}" for entry in self.driver.get_log("browser")]

    def picture(self, width: int) -> bytes:
        """A picture of the whole page, at most 4000 pixels of it."""
        height = min(int(self.run("return document.documentElement.scrollHeight")), _TALLEST)
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        taken = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True, "clip": clip}
        )
        return base64.b64decode(taken["data"])

    def scripts(self, allowed: bool) -> None:
        """Let pages run scripts, or not."""
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not allowed})


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser of its own, with nothing remembered."""
    options = Options()
    options.binary_location = "/usr/bin/chromium"
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in ("--headless=new", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage",
                     "--no-proxy-server", "--disable-background-networking", "--disable-component-update"):  # fmt: skip
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # root has none
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
