"""The harness: a real JupyterLab that runs cells as for a user."""

import pytest

CELLS = ["6 * 7", "import ipywidgets\nipywidgets.IntSlider(value=3)", "1 / 0"]


def test_cells_run_and_show_results(notebook):
    with notebook(CELLS) as open_:
        page = open_.page
        page.locator(".jp-Notebook-cell .cm-content").first.click()
        for _ in CELLS:
            page.keyboard.press("Shift+Enter")
        open_.output(2).wait_for()
        open_.idle()
        assert open_.page.evaluate("document.body.dataset.jpThemeLight") == "true"
        assert open_.output(0).inner_text() == "42"
        assert open_.output(1).locator(".widget-readout").inner_text() == "3"
        assert "ZeroDivisionError" in open_.output(2).inner_text()
        assert open_.seen.errors == []
        assert [cell.execution_count for cell in open_.saved().cells][:3] == [1, 2, 3]


def test_lab_has_requested_theme_and_width(notebook):
    with notebook([], theme="dark", width=480) as open_:
        assert open_.page.evaluate("document.body.dataset.jpThemeLight") == "false"
        assert open_.page.evaluate("window.innerWidth") == 480


def test_request_to_other_host_is_detected(lab, browser):
    with pytest.raises(AssertionError, match="example"), browser.page(lab.url) as (page, seen):
        page.set_content("<img src='http://example.invalid/x.png'>")
        page.wait_for_load_state("networkidle")
        assert seen.elsewhere == ["http://example.invalid/x.png"]


def test_dialog_is_detected(lab, browser):
    with pytest.raises(AssertionError, match="pwned"), browser.page(lab.url) as (page, _):
        page.set_content("<img src='data:,' onerror=\"alert('pwned')\">")
        page.wait_for_load_state("networkidle")
