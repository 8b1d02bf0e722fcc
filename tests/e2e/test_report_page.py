"""The report page in Chromium: no console output, no requests; sorting, filters and themes."""

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from fluxfast.cli.main import main
from fluxfast.history.database import (
    Acceptance,
    add_acceptances,
    append,
    measurement_of,
    opened,
)
from tests.support.browser import (
    CHROMIUM,
    DRIVER,
    open_browser,
    set_theme,
    wait_until,
    wait_until_rendered,
    window_size,
)
from tests.support.synthetic_history import FIRST, SLOWER, nightly_results
from tests.support.synthetic_results import ablation, write, write_artifacts, write_baseline

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="chromium and chromedriver are not installed: apt-get install chromium "
        "chromium-driver",
    ),
]
READINGS = tuple({"sm_clock_mhz": 1980.0 - 15 * n, "temperature_c": 50.0 + n} for n in range(3))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of synthetic results with every section: fp8_per_row became 30% slower."""
    folder = tmp_path_factory.mktemp("page")
    write_baseline(ablation(seed=1), folder / "nvidia-h200.json")
    warming_up = [replace(r, telemetry=READINGS) for r in ablation({"fp8_per_row": 1.3})]
    folders = write(warming_up, folder / "results")
    write_artifacts(folders[0])
    with opened(folder / "history.sqlite3", new=True) as connection:
        append(connection, map(measurement_of, nightly_results()))
        slower = (FIRST + timedelta(days=SLOWER)).isoformat(timespec="seconds")
        merged = dict(pull="#7", merged_at=slower, who="kim", reason="needs float32")
        add_acceptances(connection, [Acceptance(**merged, measured_at=slower)])
    against = ["--against", str(folder / "nvidia-h200.json")]
    history = ["--history", str(folder / "history.sqlite3")]
    path = folder / "page.html"
    assert main(["report", *map(str, folders), *against, *history, "--html", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def chromium():
    with open_browser() as browser:
        yield browser


@pytest.fixture
def browser(chromium, page):
    """The browser with the page open and its charts rendered."""
    if chromium.current_url.partition("#")[0] != page.as_uri():
        chromium.get(page.as_uri())
        wait_until_rendered(chromium)
    return chromium


@pytest.fixture(params=[1200, 700])
def narrow(request, browser, page):
    """The page opened in a window of so many pixels."""
    with window_size(browser, request.param):
        browser.get(page.as_uri())
        wait_until_rendered(browser)
        yield browser


def wait_for_text(browser, text):
    shown = find(browser, "#shown")
    wait_until(lambda: shown.text == text, lambda: shown.text)


def visible_rows(browser, column):
    return browser.execute_script(
        "return [...document.querySelectorAll('#cases tbody')].filter(b => !b.hidden)"
        f".map(b => b.rows[0].cells[{column}].dataset.sort)"
    )


def find(browser, selector):
    return browser.find_element("css selector", selector)


def test_every_chart_is_rendered_without_console_output_or_requests(browser, page):
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('.chart')].filter(c => !c.closest('[hidden]'))"
        ".map(c => [c.dataset.spec, c.querySelectorAll('svg path').length])"
    )
    assert len(boxes) >= 10 and all(paths > 3 for _, paths in boxes), boxes
    for picker, charts in (("steps", 2), ("roofline", 1), ("history", 1)):
        browser.execute_script(
            "const s = document.querySelector(`[data-picks=${arguments[0]}-charts]`);"
            "s.selectedIndex = 1; s.dispatchEvent(new Event('change'));",
            picker,
        )
        shown = f"#{picker}-charts figure:not([hidden]) svg"
        wait_until(
            lambda: len(browser.find_elements("css selector", shown)) == charts,  # noqa: B023
            lambda: picker,  # noqa: B023
        )
    titles = browser.execute_script(
        "return [...document.querySelectorAll('#steps-charts figure:not([hidden]) h3')]"
        ".map(h => h.textContent)"
    )
    assert (
        len(titles) == 2 and len(set(titles)) == 1
    )  # the steps of a case, and its telemetry below
    assert browser.get_log("browser") == []
    fetched = [
        entry["message"]
        for entry in browser.get_log("performance")
        if 'Network.requestWillBeSent"' in entry["message"]
    ]
    assert fetched and not any('"url":"http' in m or '"url":"ws' in m for m in fetched)


def test_every_image_is_loaded_before_it_is_scrolled_to(browser):
    widths = browser.execute_script("return [...document.images].map(i => i.naturalWidth)")
    assert len(widths) == 3 * 16 and min(widths) > 0


def test_names_of_bars_are_complete_and_do_not_overlap(tmp_path, chromium):
    """The baselines of two GPUs have long names, which must not end in the same `…`."""
    path = tmp_path / "two.html"
    baselines = [f"baselines/nvidia-{gpu}.json" for gpu in ("h200", "h100")]
    assert main(["report", *baselines, "--html", str(path)]) == 0
    chromium.get(path.as_uri())
    wait_until_rendered(chromium)
    names = chromium.execute_script("""
        return [...document.querySelectorAll('.chart svg')]
            .filter((svg) => svg.getClientRects().length)
            .flatMap((svg) => [...svg.querySelectorAll('.role-axis-label')])
            .map((axis) => [...axis.querySelectorAll('text')]
                .filter((text) => text.getAttribute('opacity') !== '0').map((text) => {
                const { top, bottom, left, right } = text.getBoundingClientRect();
                return [top, left, bottom, right, text.textContent];
            }));
    """)
    assert max(len(text) for axis in names for *_, text in axis) > 60
    assert not [text for axis in names for *_, text in axis if "…" in text]
    assert any({"1", "1.4", "2"} <= {text for *_, text in axis} for axis in names)  # of the effects
    for axis in names:
        for (*_, bottom, right, _), (top, left, *_, text) in pairwise(sorted(axis)):
            assert top > bottom - 3 or left > right - 3, text


def test_an_accepted_slowdown_is_named_at_its_change_points(page):
    """Both cases that became slower name it, and no other change point does."""
    assert page.read_text().count("accepted in #7 by kim: needs float32") == 2


def test_a_click_or_a_key_sorts_numbers_as_numbers(browser):
    heads = browser.find_elements("css selector", "#cases thead th")
    column = [head.text for head in heads].index("ms/step")
    button = heads[column].find_element("css selector", "button")
    button.click()
    rising = [float(value) for value in visible_rows(browser, column)]
    assert rising == sorted(rising) and len(rising) == 18
    assert heads[column].get_attribute("aria-sort") == "ascending"
    button.send_keys("\ue007")  # Enter
    assert [float(v) for v in visible_rows(browser, column)] == rising[::-1]
    assert heads[column].get_attribute("aria-sort") == "descending"


def test_filters_keep_the_matching_rows(browser):
    from selenium.webdriver.support.select import Select

    text = find(browser, "#filter-text")
    text.send_keys("fp8_per_row −dbcache")
    wait_for_text(browser, "8 of 18 cases")
    Select(find(browser, "[data-filter=model]")).select_by_visible_text("dev")
    wait_for_text(browser, "4 of 18 cases")
    Select(find(browser, "[data-filter=outcome]")).select_by_visible_text("same")
    wait_for_text(browser, "0 of 18 cases")
    assert not visible_rows(browser, 0)
    for name in ("model", "outcome"):
        Select(find(browser, f"[data-filter={name}]")).select_by_value("")
    text.send_keys("\ue009a", "\ue017")  # Ctrl-A, Delete
    wait_for_text(browser, "18 of 18 cases")


def test_the_page_is_accessible_to_keyboards_and_screen_readers(browser):
    """Controls have names, headings are in order, images have texts, a skip link comes first."""
    problems = browser.execute_script("""
        const found = [];
        for (const e of document.querySelectorAll('button, input, select'))
            if (!(e.innerText.trim() || e.labels?.length || e.ariaLabel)) found.push(e.outerHTML);
        for (const e of document.querySelectorAll('img, [role=img]'))
            if (!(e.alt || e.ariaLabel)) found.push(e.outerHTML);
        let last = 0;
        for (const e of document.querySelectorAll('h1, h2, h3')) {
            const level = Number(e.tagName[1]);
            if (level > last + 1) found.push(e.textContent);
            last = level;
        }
        if (!document.documentElement.lang || !document.querySelector('main')) found.push('main');
        return found;
    """)
    assert problems == []
    skip = browser.execute_script("""
        const first = document.querySelector('a, button, input, select, [tabindex]');
        first.focus();
        return [first.className, first.getBoundingClientRect().left >= 0];
    """)
    assert skip == ["skip", True]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_enough_contrast(browser, theme):
    """WCAG 2 AA: a contrast of 4.5 for all text of the table, the banner and the charts."""
    set_theme(browser, theme)
    wait_until_rendered(browser)
    lowest, where = browser.execute_script("""
        const rgba = (text) => text.match(/[\\d.]+/g).map(Number);
        const linear = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
        const ground = (e) => {
            for (; e; e = e.parentElement) {
                const colour = rgba(getComputedStyle(e).backgroundColor);
                if (colour.length < 4 || colour[3] > 0) return colour;
            }
        };
        let lowest = [99, ''];
        for (const e of document.querySelectorAll(
            'td, th, p, a, dt, dd, h2, h3, .verdict, .banner, svg text')) {
            if (!e.getClientRects().length) continue;
            const style = getComputedStyle(e);
            const word = rgba(e.tagName === 'text' ? style.fill : style.color);
            const [x, y] = [light(word), light(ground(e))].sort((a, b) => b - a);
            const contrast = (x + 0.05) / (y + 0.05);
            if (contrast < lowest[0]) lowest = [contrast, e.outerHTML];
        }
        return lowest;
    """)
    assert lowest >= 4.5, where


def test_a_link_jumps_to_a_visible_heading(narrow):
    hidden = narrow.execute_script("""
        document.documentElement.style.scrollBehavior = 'auto';
        return [...document.querySelectorAll('nav a')].filter((link) => {
            link.click();
            const heading = document.querySelector(link.hash + ' h2');
            const at = heading.getBoundingClientRect();
            return document.elementFromPoint(at.left + 2, at.top + 1) !== heading;
        }).map((link) => link.hash);
    """)
    assert hidden == []


def test_reasons_are_readable_without_horizontal_scrolling(narrow):
    reasons, page_scrolls = narrow.execute_script("""
        const text = document.createRange();
        const reasons = [...document.querySelectorAll('#cases .reason div')].map((reason) => {
            text.selectNodeContents(reason);
            return reason.closest('.scroll').getBoundingClientRect().right
                - text.getBoundingClientRect().right;
        });
        return [reasons, document.documentElement.scrollWidth > innerWidth];
    """)
    assert len(reasons) == 10 and min(reasons) >= 0, reasons
    assert not page_scrolls


def test_the_text_of_a_chart_is_within_it(narrow):
    clipped = narrow.execute_script("""
        const within = (a, b) => a.left >= b.left && a.right <= b.right;
        return [...document.querySelectorAll('.chart svg')].flatMap((svg) =>
            [...svg.querySelectorAll('text')].filter((text) =>
                !within(text.getBoundingClientRect(), svg.getBoundingClientRect())
            ).map((text) => text.textContent));
    """)
    assert clipped == []
