"""The report page in a real browser: Debian's Chromium, or the one that CHROME names. Skipped where there is none."""

from contextlib import ExitStack

import pytest

from icm_api.report.page import Report, ReportRow, render
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
