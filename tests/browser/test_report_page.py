"""The report page in a real browser: Debian's Chromium, or the one that CHROME names. Skipped where there is none."""

from contextlib import ExitStack

import pytest

from icm_api.report.page import Report, ReportRow, Strained, render
from tests.browser.chrome import NoBrowserError, open_browser
from tests.unit.report.conftest import HOSTILE, journal, rows, summary


@pytest.fixture(scope="module")
def browser():
    with ExitStack() as open_until:
        try:
            started = open_until.enter_context(open_browser(1200, 1600))
        except NoBrowserError as error:
            pytest.skip(str(error))
        yield started


@pytest.fixture
def open_page(browser, tmp_path):
    def open_it(report):
        file = tmp_path / "report.html"
        file.write_text(render(report), encoding="utf-8")
        browser.get(file.as_uri())
        return browser

    return open_it


def find(page, selector):
    return page.find_elements("css selector", selector)


def small():
    return Report("Reviews", summary(warnings=[HOSTILE]), rows(), journal())


def test_the_page_opens_without_errors_and_hostile_text_does_nothing(open_page):
    page = open_page(small())
    assert page.title == "Reviews"
    assert page.get_log("browser") == []
    assert not find(page, "img")
    assert len(find(page, "figure svg")) >= 4


def test_the_table_filters_by_text_label_and_kind(open_page):
    page = open_page(small())
    assert len(find(page, ".row")) == 3
    find(page, "#search")[0].send_keys("fine")
    assert [row.text.split()[0] for row in find(page, ".row")] == ["r1"]
    find(page, "#search")[0].clear()
    find(page, "#search")[0].send_keys(" ")
    choose = pytest.importorskip("selenium.webdriver.support.select").Select(find(page, "#kind")[0])
    choose.select_by_value("wrong")
    assert [row.text.split()[0] for row in find(page, ".row")] == ["r3"]
    assert "1 of 3" in find(page, "#shown")[0].text


def test_the_table_sorts_and_shows_an_example_whole(open_page):
    page = open_page(small())
    sort = find(page, "[data-sort=confidence]")[0]
    sort.click()
    assert [row.text.split()[0] for row in find(page, ".row")] == ["r3", "r2", "r1"]
    assert sort.get_attribute("aria-sort") == "ascending"
    find(page, ".row")[1].click()
    detail = find(page, "#detail")[0].text
    assert HOSTILE in detail
    assert "decided by a rule" in detail
    assert page.title == "Reviews"


@pytest.mark.parametrize("column", ["label", "gold", "confidence"])
def test_what_is_unknown_comes_last_either_way(open_page, column):
    page = open_page(Report("Unknown", summary(), [ReportRow("r0", "Perhaps", None, None), *rows()]))
    for _ in range(2):
        find(page, f"[data-sort={column}]")[0].click()
        assert [row.text.split()[0] for row in find(page, ".row")][-1] == "r0"


def test_a_member_of_a_strained_component_leads_to_its_row(open_page):
    page = open_page(Report("Strained", summary(), rows(), strained=[Strained([0, 1], ["a rule"], 1, 0)]))
    find(page, "#search")[0].send_keys("fine")
    assert [link.text for link in find(page, ".go")] == ["r2", "r1"]
    find(page, ".go")[0].click()
    assert find(page, "#detail")[0].text.startswith("r2: negative")
    assert find(page, ".row.open")[0].text.startswith("r2")


def test_ranges_of_the_shares_stand_on_one_line(open_page):
    ranges = {"negative": (0.03, 0.5), "positive": (0.5, 0.97)}
    page = open_page(Report("Shares", summary(share_ranges=ranges), rows()))
    assert all(row.size["height"] < 40 for row in find(page, ".shares tr"))


CONTRASTS = """
  const light = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = channels(getComputedStyle(element).backgroundColor);
      if (colour.length === 3) return colour;  // with a fourth it is transparent
    }
    return [255, 255, 255];
  };
  const told = [...document.body.querySelectorAll("*")].filter((element) =>
    element.getClientRects().length && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
  return told.map((element) => {
    const style = getComputedStyle(element), inPicture = element instanceof SVGElement;
    const [x, y] = [luminance(channels(inPicture ? style.fill : style.color)), luminance(behind(element))];
    return [element.outerHTML.slice(0, 80), (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05)];
  });
"""
"""Of each element with text of its own: what it is, and its contrast (WCAG 2.2, 1.4.3)."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read_on_its_ground(open_page, browser, scheme):
    levels = ("fine", "doubtful", "failed", "not measured")
    checks = [{"name": level, "level": level, "figure": "a figure"} for level in levels]
    told = summary(verdict="doubtful", against_gold="gold disagrees", checks=checks)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    page = open_page(Report("Reviews", told, rows(), journal(), strained=[Strained([0, 1], ["a rule"], 1, 0)]))
    contrasts = page.execute_script(CONTRASTS)
    ground = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 31)"}[scheme]
    assert len(contrasts) > 50
    assert [(what, ratio) for what, ratio in contrasts if ratio < 4.5] == []


def test_ten_thousand_rows_stay_fluent(open_page):
    many = [ReportRow(f"r{i}", f"text {i} " + "words " * 30, "positive", (i % 100) / 100) for i in range(10_000)]
    page = open_page(Report("Many", summary(examples=10_000, labelled=10_000), many))
    assert len(find(page, ".row")) < 60  # only what is in view
    page.execute_script("document.getElementById('window').scrollTop = 9000 * 32")
    page.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 0))")
    assert any(row.text.startswith("r90") for row in find(page, ".row"))


def test_a_narrow_page_does_not_scroll_sideways(open_page, browser):
    page = open_page(small())
    browser.set_window_size(500, 900)
    wide, shown = page.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    browser.set_window_size(1200, 1600)
    assert wide <= shown
