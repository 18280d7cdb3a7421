"""The report in a real browser. Oracle: what headless Chromium shows, runs and complains about."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfplay_fast.report import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
]

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="chromium and its driver are not installed"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium with an empty profile."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, synthetic_run: Path) -> Any:
    """The synthetic run's report, opened; its charts are drawn."""
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(write_report(synthetic_run).as_uri())
    wait(browser, lambda: count(browser, "#charts svg path") > 10)
    return browser


def wait(browser: Any, condition: Any) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 60, poll_frequency=0.05).until(lambda _: condition())


def count(browser: Any, selector: str) -> int:
    return len(browser.find_elements("css selector", selector))


def text_of(browser: Any, selector: str) -> str:
    return browser.find_element("css selector", selector).text


def test_charts_are_drawn_and_nothing_is_reported(page: Any) -> None:
    """Oracle: every chart has axes and a line inside its box; the console is empty; only the file was loaded."""
    titles = [element.text for element in page.find_elements("css selector", ".chart-title")]
    for title in ("NashConv", "Legal replies", "Entropy", "Gradient norm", "Tokens per second"):
        assert title in titles
    outside = page.execute_script("""
        return [...document.querySelectorAll('.chart')].filter((chart) => {
            const frame = chart.querySelector('svg').getBoundingClientRect();
            const lines = [...chart.querySelectorAll('svg path, svg text')];
            return lines.length < 4 || lines.some((line) => {
                const box = line.getBoundingClientRect();
                return box.left < frame.left - 1 || box.right > frame.right + 1
                    || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
            });
        }).map((chart) => chart.querySelector('.chart-title').textContent);""")
    assert outside == []
    assert page.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    loaded = {request["request"]["url"] for request in sent if request["documentURL"] == page.current_url}
    assert {url for url in loaded if not url.startswith("data:")} == {page.current_url}


def test_what_a_model_says_stays_text(page: Any, hostile_text: str) -> None:
    """Oracle: the hostile reply is on the screen letter by letter; no element and no script came of it."""
    page.find_element("id", "episode-on").click()
    assert text_of(page, "pre.reply") == hostile_text
    assert count(page, ".reasoning") == 1
    page.find_element("css selector", ".reasoning summary").click()
    assert text_of(page, ".reasoning pre") == f"thought {hostile_text}"
    assert hostile_text in text_of(page, ".chip.refusal")
    assert count(page, "img") == 0
    assert count(page, "#transcript b") == 0
    assert count(page, "script") == 3
    assert page.title == "spiral · synthetic-run"
    assert page.get_log("browser") == []


def test_an_injected_script_would_not_run(page: Any) -> None:
    """Oracle: the page's own content policy blocks a handler put into the document by hand."""
    page.execute_script(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.owned=1\">')"
    )
    wait(
        page, lambda: any("Content Security Policy" in entry["message"] for entry in page.get_log("browser"))
    )
    assert page.execute_script("return window.owned") is None


def test_transcript_navigation(page: Any) -> None:
    """Oracle: the steps and episodes of the synthetic run, in order, and the ends of both lists."""

    def place() -> tuple[str, str]:
        step = page.execute_script("return document.getElementById('step').selectedOptions[0].textContent")
        return step, text_of(page, "#transcript .summary").split(" · ")[2]

    assert place() == ("100", "seed 4611686018427388004")
    assert not page.find_element("id", "step-on").is_enabled()
    page.find_element("id", "step-back").click()
    assert place() == ("50", "seed 4611686018427387954")
    page.find_element("id", "episode-on").click()
    assert place() == ("50", "seed 4611686018427387955")
    assert not page.find_element("id", "episode-on").is_enabled()
    page.find_element("id", "step-back").click()
    assert place() == ("0", "seed 4611686018427387905")
    assert not page.find_element("id", "step-back").is_enabled()
    page.find_element("id", "episode-back").click()
    assert count(page, ".turn") == 3
    assert "You are player 0. Your card: K." in text_of(page, "pre.prompt")
    assert "advantage +0.125" in text_of(page, ".turn")
    page.find_element("id", "refused").click()
    assert count(page, ".turn") == 1
    assert count(page, ".chip.refusal") == 1


def test_hover_legend_and_smoothing(page: Any) -> None:
    """Oracle: the tooltip shows the logged number, a hidden line is gone, smoothing doubles the noisy lines."""
    from selenium.webdriver import ActionChains

    chart = page.find_element("css selector", ".chart")
    assert chart.find_element("css selector", ".chart-title").text == "NashConv"
    ActionChains(page).move_to_element_with_offset(
        chart.find_element("css selector", "svg"), chart.size["width"] // 2 - 30, 0
    ).perform()
    wait(page, chart.find_element("css selector", ".tip").is_displayed)
    tip = chart.find_element("css selector", ".tip").text
    assert tip.startswith("step 100")
    assert "0.2621" in tip  # 0.25 + 0.66 exp(-4)
    legend = page.find_element("css selector", ".legend button")
    lines = count(page, "#charts svg path")
    legend.click()
    assert count(page, "#charts svg path") < lines
    legend.click()
    assert count(page, "#charts svg path") == lines
    raw = count(page, "path.raw")
    assert raw > 5
    page.find_element("id", "smooth").click()
    assert count(page, "path.raw") == 0
    assert count(page, "#charts svg path") == lines - raw


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1280, "dark"), (1280, "light")])
def test_widths_and_color_schemes(page: Any, width: int, scheme: str) -> None:
    """Oracle: nothing is wider than the screen; text stands out from what is behind it (WCAG contrast 4.5)."""
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False},
    )
    try:
        assert page.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
        colors = page.execute_script("""
            const style = getComputedStyle(document.documentElement);
            return ['--ink', '--soft', '--accent', '--good', '--bad', '--card', '--paper']
                .map((name) => style.getPropertyValue(name).trim());""")
        for text in colors[:5]:
            for behind in colors[5:]:
                assert contrast(text, behind) >= 4.5, (text, behind)
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two #rrggbb colors, WCAG 2.1 (relative luminance)."""

    def luminance(color: str) -> float:
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
