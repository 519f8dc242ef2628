"""The check of accessibility finds what it is for."""

from tests.browser import axe


def test_list_without_a_label_and_pale_text_are_found(browser):
    with browser.page("about:") as (page, _):
        page.set_content("<select><option>a</select><p style='color:#ccc;background:#fff'>pale</p><p id=good>text</p>")
        found = axe.problems(page)
        assert {text.split(" ")[1] for text in found} >= {"select-name", "color-contrast"}
        assert axe.problems(page, "#good") == []
        assert not any("color-contrast" in text for text in axe.problems(page, without=("color-contrast",)))
