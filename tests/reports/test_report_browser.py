"""The report in a real browser: Chromium without a window, driven by Selenium; skipped where either is missing."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from report_helpers import CLASSES, make_job, make_sweep

from gantry.reports.build import compare_sweep

selenium = pytest.importorskip("selenium.webdriver")
By = pytest.importorskip("selenium.webdriver.common.by").By
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="no Chromium with its driver")

HOSTILE = "<img src=x onerror=document.title='run'>@{at}$index"
MOST = 5 * 1000 * 1000  # bytes of a report
WIDE, HIGH = 1200, 1000  # pixels of the window
SWITCHES = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--force-device-scale-factor=1", f"--window-size={WIDE},{HIGH}"),
)
# The alpha of each run's line in the first chart, by label.
LINES = """const {label, alpha} = charts[0].drawn.lines.data;
return Object.fromEntries(label.map((name, i) => [name, alpha[i]]));"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a sweep of twelve runs: six variants, two seeds each, measured at three steps."""
    folder = tmp_path_factory.mktemp("outputs") / "12_sweep"
    variants = ["dcgan", "wgan", HOSTILE, "lsgan", "r3gan", "a variant of quite a long name, longer than others"]
    jobs = {}
    for place, variant in enumerate(variants):
        for seed in (0, 1):
            name = f"{len(jobs)}_job"
            shares = dict.fromkeys(CLASSES, (0.1, 0.1))
            make_job(folder / name, variant, seed, final=2.0 + place + seed, classes=shares, critics=1 + place)
            jobs[name] = [f"model={variant}", f"seed={seed}"]
    return compare_sweep(make_sweep(folder, jobs)).report


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = selenium.ChromeOptions()
    options.binary_location = BROWSER
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, report: Path) -> Any:
    """The report, freshly opened in the light scheme, its first chart drawn."""
    return opened(browser, report)


def opened(browser: Any, report: Path, scheme: str = "light", script: bool = True) -> Any:
    preferred = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", preferred)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not script})
    browser.get(report.as_uri())
    if script:
        until(lambda: browser.execute_script("return charts.length > 0 && charts[0].home.querySelector('.bk-Figure')"))
        # Drawn: Bokeh has computed where the frame lies.
        until(lambda: browser.execute_script(f"{VIEW} return view?.frame_view?.bbox?.width > 50"))
    return browser


VIEW = "const view = [...Bokeh.index].find((one) => one.model === charts[0].figure);"


def until(true: Callable[[], Any], seconds: float = 30) -> Any:
    """Return what `true` returns once that is true; fail where it is not within `seconds`."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "the page does not get there"
        time.sleep(0.1)
    return found


def moved(page: Any, step: float, value: float, click: bool = False) -> None:
    """Move the pointer to a point of the first chart, and click there."""
    x, y = page.execute_script(
        f"""{VIEW} charts[0].home.scrollIntoView({{block: "center"}});
        const box = charts[0].home.querySelector(".plot").getBoundingClientRect();
        return [box.x + view.frame_view.x_scale.compute({step}), box.y + view.frame_view.y_scale.compute({value})];"""
    )
    chain = selenium.ActionChains(page)
    chain.w3c_actions.pointer_action.move_to_location(round(x) - 5, round(y))
    chain.w3c_actions.pointer_action.move_to_location(round(x), round(y))
    if click:
        chain.w3c_actions.pointer_action.click()
    chain.perform()


def shot(page: Any, selector: str = ".plot") -> bytes:
    return page.find_element(By.CSS_SELECTOR, selector).screenshot_as_png


def test_the_report_of_twelve_runs_is_one_small_file_that_asks_for_nothing(page: Any, report: Path) -> None:
    assert report.stat().st_size < MOST
    messages = [json.loads(line["message"])["message"] for line in page.get_log("performance")]
    sent = [one["params"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    asked = [one["request"]["url"] for one in sent if one["documentURL"] == report.as_uri()]
    assert report.as_uri() in asked
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "blob"}
    assert [line for line in page.get_log("browser") if line["level"] in ("SEVERE", "WARNING")] == []


def test_nothing_is_wider_than_the_window_and_tables_scroll_in_their_frames(page: Any) -> None:
    assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    frames = page.execute_script(
        """return [...document.querySelectorAll(".wide")].map((frame) => {
            const table = frame.firstElementChild.getBoundingClientRect(), box = frame.getBoundingClientRect();
            return [box.right <= innerWidth, table.width <= box.width || getComputedStyle(frame).overflowX === "auto"];
        })"""
    )
    assert len(frames) >= 3
    assert all(inside and reachable for inside, reachable in frames)
    page.set_window_size(700, HIGH)  # as in MLflow's view of an artifact
    try:
        wider = """return [...document.querySelectorAll(".wide")].filter((one) => one.scrollWidth > one.clientWidth + 1)
        .map((one) => [one.firstElementChild.tagName, one.previousElementSibling.matches(".more:not([hidden])")])"""
        until(lambda: page.execute_script(wider) in ([], [["IMG", True]]))
        page.set_window_size(500, HIGH)
        until(lambda: page.execute_script(wider) and all(said for _, said in page.execute_script(wider)))
        left = """const frame = document.querySelector(".wide"); frame.scrollLeft = 1e4;
        const [rank, name] = frame.querySelectorAll("tbody td"), last = frame.querySelector("tbody td:last-child");
        const box = frame.getBoundingClientRect(), right = last.getBoundingClientRect().right;
        return [frame.scrollLeft, rank.getBoundingClientRect().x - box.x, name.getBoundingClientRect().x - box.x,
                right - box.right];"""
        scrolled, rank, name, beyond = page.execute_script(left)
        assert scrolled > 0
        assert rank == pytest.approx(0, abs=1)  # rank and name stay
        assert 0 < name < 60
        assert beyond == pytest.approx(0, abs=1.5)  # the last column is reached
        assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    finally:
        page.set_window_size(WIDE, HIGH)


def test_values_are_under_the_pointer(page: Any) -> None:
    moved(page, 200, 60)
    deep = """const found = []; const walk = (root) => { for (const one of root.querySelectorAll("*")) {
        if (one.localName === "table" && one.closest("div")) found.push(one.closest("div").innerText);
        if (one.shadowRoot) walk(one.shadowRoot); } };
    walk(charts[0].home.querySelector(".plot")); for (const one of document.body.children)
        if (one.shadowRoot) walk(one.shadowRoot);
    return found.join("\\n");"""
    said = until(lambda: page.execute_script(deep))
    # The best of two seeds ends at 2 and 3; at step 200 of 300 both are 100 / 3 above.
    assert "generator steps 200" in said
    assert "dcgan" in said
    assert "35.83 (35.33 to 36.33)" in said
    assert HOSTILE in said
    assert said.count("generator steps 200") == 1
    assert page.title != "run"


def test_a_click_on_a_name_singles_the_run_out_and_another_shows_all(page: Any) -> None:
    before = page.execute_script(LINES)
    assert set(before.values()) == {1}
    picture = shot(page)
    key = next(one for one in page.find_elements(By.CSS_SELECTOR, ".key") if one.text.strip() == "wgan")
    key.click()
    after = page.execute_script(LINES)
    assert after == {name: 1 if name == "wgan" else pytest.approx(0.1) for name in before}
    until(lambda: shot(page) != picture)
    assert key.get_attribute("aria-pressed") == "true"
    key.click()
    assert page.execute_script(LINES) == before
    key.click()
    selenium.ActionChains(page).send_keys("\ue00c").perform()  # Esc
    assert page.execute_script(LINES) == before
    assert key.get_attribute("aria-pressed") == "false"


def test_a_click_on_a_line_singles_the_run_out(page: Any) -> None:
    at = 2.0 + 5 + 0.5 + 100 / 3  # the last of six
    moved(page, 200, at + 0.3, click=True)
    until(lambda: min(page.execute_script(LINES).values()) < 1)
    (single,) = [name for name, alpha in page.execute_script(LINES).items() if alpha == 1]
    assert single.startswith("a variant")
    rows = page.execute_script(
        """return [...document.querySelectorAll("tr[data-run]")].map(
            (row) => [row.dataset.run, getComputedStyle(row).opacity])"""
    )
    assert {opacity for name, opacity in rows if name.startswith("a variant")} == {"1"}
    assert {opacity for name, opacity in rows if not name.startswith("a variant")} == {"0.35"}


def test_the_axis_is_chosen_for_all_charts(page: Any) -> None:
    assert page.execute_script("return Math.max(...charts[0].drawn.lines.data.xs.flat())") == 300
    page.find_element(By.CSS_SELECTOR, "input[value=images]").click()
    assert page.execute_script("return Math.max(...charts[0].drawn.lines.data.xs.flat())") == 300 * 128 * 6
    assert page.execute_script("return charts.every((chart) => chart.axis === 'images')")


def test_a_dragged_box_enlarges_and_a_double_click_undoes_it(page: Any) -> None:
    shown = "const range = charts[0].figure.x_range; return range.end - range.start;"
    moved(page, 50, 60)
    whole = page.execute_script(shown)
    assert whole > 300
    drag = selenium.ActionChains(page)
    drag.click_and_hold().move_by_offset(40, 20).move_by_offset(40, 20).release().perform()
    until(lambda: page.execute_script(shown) < 200)
    selenium.ActionChains(page).double_click().perform()
    until(lambda: page.execute_script(shown) == whole)


def test_the_slider_changes_the_step_of_the_images(page: Any) -> None:
    shown = """return [...document.querySelectorAll(".samples [data-step] img")].filter((one) => one.offsetParent)
    .map((one) => [one.alt, one.src, one.naturalWidth]);"""
    last = page.execute_script(shown)
    assert len(last) == 6
    assert all(alt.endswith("at step 300") and wide for alt, _, wide in last)
    slider = page.find_element(By.CSS_SELECTOR, ".slider input")
    slider.send_keys("\ue012")  # left arrow
    before = page.execute_script(shown)
    assert len(before) == 6
    assert all(alt.endswith("at step 200") for alt, _, _ in before)
    assert all(one[1] != other[1] for one, other in zip(last, before, strict=True))
    assert page.find_element(By.CSS_SELECTOR, ".slider output").text == "200"


def test_the_slider_begins_at_the_first_grid_and_says_whose_are_missing(browser: Any, report: Path) -> None:
    page = opened(browser, report)
    assert page.find_element(By.CSS_SELECTOR, ".grids").get_attribute("data-steps").split()[0] == "0"
    assert "none of" not in page.find_element(By.CSS_SELECTOR, ".samples .soft").text
    for folder in report.parents[1].glob("[01]_job"):
        (folder / "samples").rename(folder / "elsewhere")
    try:
        page = opened(browser, compare_sweep(report.parents[1], out=report.parent / "other").report)
        said = page.find_element(By.CSS_SELECTOR, ".samples .soft").text
        assert said.endswith("none of dcgan, whose folders hold no picture of these steps.")
    finally:
        for folder in report.parents[1].glob("[01]_job"):
            (folder / "elsewhere").rename(folder / "samples")


def test_no_name_is_broken_inside_a_word_and_a_map_keeps_its_colours_in_the_dark(browser: Any, report: Path) -> None:
    page = opened(browser, report, "dark")
    looks = """return [getComputedStyle(document.querySelector(".options td")).overflowWrap,
    getComputedStyle(document.querySelector(".map img")).filter, document.querySelector(".options td").innerHTML];"""
    wrap, colours, name = page.execute_script(looks)
    assert (wrap, colours) == ("normal", "none")
    assert "model.<wbr>" in name


def test_a_dark_page_where_the_system_is_dark(browser: Any, report: Path) -> None:
    looks = """return [getComputedStyle(document.body).backgroundColor, charts[0].figure.xaxes[0].axis_line_color,
    charts[0].drawn.lines.data.colour.at(-1), getComputedStyle(document.querySelector(".key .swatch")).color];"""
    light = opened(browser, report).execute_script(looks)
    drawn = shot(browser)
    dark = opened(browser, report, "dark").execute_script(looks)
    assert all(one != other for one, other in zip(light, dark, strict=True))
    assert light[0] == "rgb(255, 255, 255)"
    assert sum(map(int, dark[0][4:-1].split(","))) < 120
    assert shot(browser) != drawn
    # The open page follows the system too.
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "light"}]}
    )
    until(lambda: browser.execute_script(looks) == light)


def test_without_javascript_curves_are_drawn_and_the_last_step_is_shown(browser: Any, report: Path) -> None:
    try:
        page = opened(browser, report, script=False)
        assert all(image.is_displayed() for image in page.find_elements(By.CSS_SELECTOR, ".panels img"))
        assert not page.find_element(By.CSS_SELECTOR, ".slider").is_displayed()
        assert not page.find_element(By.CSS_SELECTOR, ".switch").is_displayed()
        shown = [one for one in page.find_elements(By.CSS_SELECTOR, ".samples [data-step] img") if one.is_displayed()]
        assert len(shown) == 6
        assert all("at step 300" in one.get_attribute("alt") for one in shown)
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
