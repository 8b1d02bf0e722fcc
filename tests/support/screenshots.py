"""Take the screenshots of the documentation with Chromium.

Run it with `python -m tests.support.screenshots docs/pictures`. The pages show the baseline of the
H200 and the synthetic history.
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

from fluxfast.cli.main import main
from fluxfast.history.database import append, measurement_of, opened
from tests.support.browser import open_browser, set_theme, wait_until_rendered
from tests.support.synthetic_history import nightly_results

WIDTH_PX = 1300
COLOURS = 128
# File name, section, theme, and the height in pixels at which the screenshot is cropped.
SHOTS = [
    ("verdicts", "verdicts", "light", 620),
    ("ablation", "staircase", "light", 700),
    ("effects", "effects", "dark", 680),
    ("history", "history", "light", 560),
]


def take(folder: Path, page: Path) -> None:
    """Write a PNG of each section in `SHOTS`."""
    folder.mkdir(parents=True, exist_ok=True)
    with open_browser(f"--window-size={WIDTH_PX},1000") as browser:
        for name, section, theme, height in SHOTS:
            set_theme(browser, theme)
            browser.get(page.as_uri())
            wait_until_rendered(browser)
            element = browser.find_element("id", section)
            browser.execute_script(
                "document.querySelector('header').style.position = 'static';"
                "document.documentElement.style.scrollBehavior = 'auto';"
            )
            path = folder / f"{name}.png"
            element.screenshot(str(path))
            with Image.open(path) as image:
                shown = image.crop((0, 0, image.width, min(image.height, height)))
                shown.convert("P", palette=Image.Palette.ADAPTIVE, colors=COLOURS).save(
                    path, optimize=True
                )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        page, database = Path(temporary) / "page.html", Path(temporary) / "history.sqlite3"
        with opened(database, new=True) as connection:
            append(connection, map(measurement_of, nightly_results()))
        results = ["baselines/nvidia-h200.json", "--history", str(database)]
        main(["report", *results, "--html", str(page)])
        take(Path(sys.argv[1]), page)
