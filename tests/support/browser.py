"""A headless Chromium for the tests of the report page and for screenshots."""

import shutil
import tempfile
import time
from contextlib import contextmanager

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--window-size=1400,1000",
)
PATIENCE_S = 30


@contextmanager
def open_browser(*flags):
    """Yield a browser with a profile of its own."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, *flags, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        browser = webdriver.Chrome(options=options, service=Service(DRIVER))
        try:
            yield browser
        finally:
            browser.quit()


def wait_until(is_so, describe):
    """Wait until `is_so()`; `describe()` explains why it is not, if that takes too long."""
    until = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < until, describe()
        time.sleep(0.05)


def wait_until_rendered(browser):
    """Wait until all visible charts are rendered."""
    state = "return document.documentElement.dataset.rendered"
    wait_until(lambda: browser.execute_script(state) == "yes", lambda: browser.get_log("browser"))


def set_theme(browser, theme):
    """Emulate the system theme, `light` or `dark`; if it changes, the page renders again."""
    is_dark = browser.execute_script("return matchMedia('(prefers-color-scheme: dark)').matches")
    if is_dark != (theme == "dark"):
        browser.execute_script("document.documentElement.dataset.rendered = 'no'")
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


@contextmanager
def window_size(browser, width, height=757):
    """Emulate a window of so many pixels."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
