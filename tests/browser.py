"""A real browser for the tests of pages: headless Chromium, driven by selenium through its own driver.

A test module asks for it with `pytest_plugins = ["tests.browser"]` and the fixture `browser`. Where there is
no Chromium the tests are skipped with a reason; `make test` installs Debian's when it may.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = (
    "--headless",
    "--no-sandbox",  # it refuses to start as root with one
    "--disable-gpu",
    "--disable-dev-shm-usage",  # containers have little shared memory
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
)
_DESKTOP = (1200, 900)


@dataclass(frozen=True)
class Browser:
    """One window; `driver` is selenium's, for clicks, uploads and waiting."""

    driver: webdriver.Chrome

    def open(self, url: str, *, width: int = _DESKTOP[0], height: int = _DESKTOP[1]) -> None:
        """Load a page in a window of this size, as a phone would show it if it is narrow."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get("about:blank")
        for log in ("browser", "performance"):  # reading a log empties it
            self.driver.get_log(log)
        self.driver.get(url)

    def messages(self) -> list[str]:
        """What the page has written to the console, errors of scripts among it, since the last call."""
        return [f"{entry['level']}: {entry['message']}" for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Every address that was asked for since the last call; a data URI is not a request."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event for event in events if event["method"] == "Network.requestWillBeSent"]
        addresses = [event["params"]["request"]["url"] for event in sent]
        return [address for address in addresses if not address.startswith("data:")]

    def pictures(self) -> list[dict[str, Any]]:
        """What each picture of the page is called and how wide it is in pixels; 0 where it did not load."""
        script = (
            "return [...document.images].map(i => ({alt: i.alt, width: i.complete ? i.naturalWidth : 0}))"
        )
        return self.run(script)

    def text(self) -> str:
        """The text of the page as a person sees it."""
        return self.run("return document.body.innerText")

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns in the page."""
        return self.driver.execute_script(script, *arguments)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium with an empty profile, shared by the tests of a session."""
    program = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    chromedriver = shutil.which("chromedriver")
    if program is None or chromedriver is None:
        pytest.skip("no Chromium with its driver here; on Debian: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for option in (*_OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    except WebDriverException as error:
        pytest.skip(f"{program} does not start here: {error.msg}")
    driver.set_page_load_timeout(60)
    yield Browser(driver)
    driver.quit()
