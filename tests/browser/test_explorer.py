"""The explorer in JupyterLab: clicks and keys lead from a registry to file bytes, in light and dark, wide and narrow."""

import json

import ocikit
import pytest

from tests.browser import axe
from tests.support import peers
from tests.support.explored import picture, write_files


@pytest.fixture(scope="module")
def registry():
    with peers.ocikit() as running:
        yield running


@pytest.fixture
def place(registry, tmp_path):
    """Push a repository with three versions of three files and a report about the newest, and return its name with the host."""
    folder = tmp_path / "waves"
    folder.mkdir()
    (folder / "sine.csv").write_text("t,y\n" + "".join(f"{i},{i * 7 % 10}\n" for i in range(50)))
    (folder / "notes.json").write_text(json.dumps({"made": "2026", "by": ["ada", "bob"]}))
    (folder / "plot.png").write_bytes(picture(64))
    (tmp_path / "report.txt").write_text("fine")
    place = f"{registry.host}/lab/waves"
    with ocikit.Session(progress=False, cache=tmp_path / "cache") as session:
        for version in ("v1.2", "v1.9", "v1.10"):
            session.push(f"{place}:{version}", folder, annotations={"org.opencontainers.image.version": version})
        session.attach(f"{place}:v1.10", tmp_path / "report.txt", artifact_type="application/vnd.example.report")
    return place


@pytest.fixture
def place_of_all(registry, tmp_path):
    """Push a file of each format and return the reference."""
    write_files(tmp_path / "all")
    with ocikit.Session(progress=False, cache=tmp_path / "cache") as session:
        session.push(f"{registry.host}/lab/all:v1", tmp_path / "all")
    return f"{registry.host}/lab/all:v1"


def options(area, title):
    """Return the list with a label."""
    return area.get_by_label(title, exact=True).first


def choose(items, text):
    """Select the option with a text."""
    option = items.locator("option", has_text=text).first
    option.wait_for(state="attached")
    items.select_option(index=option.evaluate("option => option.index"))


def names(items):
    """Return the first word of each option."""
    return [text.split()[0] for text in items.locator("option").all_inner_texts()]


def test_clicks_lead_from_registry_to_file_bytes(notebook, registry, place, shots):
    with notebook([f"import ocikit\nocikit.explore({registry.host!r})"]) as open_:
        open_.run()
        area = open_.output(0).first
        choose(options(area, "repositories"), "lab/waves")
        tags, files = options(area, "tags"), options(area, "files")
        tags.locator("option", has_text="v1.10").wait_for(state="attached")
        assert names(tags) == ["v1.10", "v1.9", "v1.2"]
        choose(tags, "v1.10")
        files.locator("option").nth(2).wait_for(state="attached")
        assert names(files) == ["waves/notes.json", "waves/plot.png", "waves/sine.csv"]
        choose(files, "sine.csv")
        area.get_by_text("30 more lines").wait_for()
        choose(files, "plot.png")
        image = area.get_by_alt_text("waves/plot.png")
        image.wait_for()
        assert image.evaluate("i => [i.naturalWidth, i.clientWidth]") == [64, 64]
        choose(files, "notes.json")
        area.get_by_text('"ada"').wait_for()
        area.get_by_text("saves 1 file (38 B) to ~/").wait_for()
        area.get_by_role("button", name="Save here").click()
        area.get_by_text("saved in ~/").wait_for()
        assert area.locator("progress").count() == 0
        choose(options(area, "referrers"), "example.report")
        files.locator("option", has_text="report.txt").wait_for(state="attached")
        area.get_by_role("button", name="Back").click()
        files.locator("option", has_text="waves/plot.png").wait_for(state="attached")
        area.get_by_role("navigation").get_by_role("button", name="lab/waves").click()
        open_.page.wait_for_function("field => field.value.startsWith('ocikit.tags(')", arg=code(area).element_handle())
        assert open_.seen.elsewhere == []
        assert open_.seen.errors == []


def code(area):
    """Return the field with the code."""
    return area.get_by_label("in code", exact=True).first


def press_until(page, key, condition):
    """Press a key until something has the focus, at most 40 times."""
    for _ in range(40):
        page.keyboard.press(key)
        if page.evaluate(f"(() => {{ const it = document.activeElement; return {condition} }})()"):
            return
    raise AssertionError(f"no {condition} after 40 times {key}")


def test_keyboard_is_sufficient(notebook, place):
    """Address, list of tags, list of files and download, with Tab, arrows and Enter only."""
    with notebook(["import ocikit\nocikit.explore()", "'below'"]) as open_:
        open_.run()
        area, page = open_.output(0).first, open_.page
        area.get_by_placeholder("oci:folder").focus()
        page.keyboard.type(place)
        page.keyboard.press("Enter")
        options(area, "tags").locator("option", has_text="v1.9").wait_for(state="attached")
        press_until(page, "Tab", "it.tagName === 'SELECT' && it.labels[0]?.textContent === 'tags'")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowUp")
        area.get_by_role("region", name="ocikit explorer").wait_for()
        files = options(area, "files")
        files.locator("option").nth(2).wait_for(state="attached")
        assert page.evaluate("document.activeElement.value") in {"v1.10", "v1.9"}
        press_until(page, "Tab", "it.tagName === 'SELECT' && it.labels[0]?.textContent === 'files'")
        page.keyboard.press("ArrowDown")
        area.get_by_text('"ada"').wait_for()
        page.keyboard.press("ArrowDown")
        area.get_by_alt_text("waves/plot.png").wait_for()
        assert page.evaluate("document.activeElement.tagName") == "SELECT"
        assert "ocikit.open(" in code(area).input_value()
        press_until(page, "Tab", "it.textContent === 'Save here'")
        page.keyboard.press("Enter")
        area.get_by_text("saved in ~/").wait_for()
        press_until(page, "Tab", "it.textContent === 'Copy'")
        page.keyboard.press("Enter")
        area.get_by_role("button", name="Copied").wait_for()


def test_start_offers_running_registries_and_logins(notebook, registry, place):
    cells = [
        f"""
        import json, os, pathlib
        folder = pathlib.Path("docker"); folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({{"auths": {{{registry.host!r}: {{}}, "ghcr.io": {{}}}}}}))
        os.environ["DOCKER_CONFIG"] = str(folder.absolute())
        import ocikit
        server = ocikit.serve()
        ocikit.explore()
        """
    ]
    with notebook(cells) as open_:
        open_.run()
        area = open_.output(0).first
        start = options(area, "start with")
        start.locator("option").nth(2).wait_for(state="attached")
        texts = [" ".join(text.split()) for text in start.locator("option").all_inner_texts()]
        assert sorted(text.partition(" ")[2] for text in texts) == ["logged in", "logged in", "running here"]
        choose(start, registry.host)
        options(area, "repositories").locator("option", has_text="lab/waves").wait_for(state="attached")
        area.get_by_role("button", name="Back").click()
        start.wait_for()


def test_saved_notebook_shows_what_was_last_seen(notebook, place, tmp_path, browser):
    from tests.browser import static

    with notebook([f"import ocikit\nocikit.explore({f'{place}:v1.10'!r})"]) as open_:
        open_.run()
        area = open_.output(0).first
        choose(options(area, "files"), "sine.csv")
        area.get_by_text("30 more lines").first.wait_for()
        open_.page.wait_for_timeout(500)
        assert not open_.output(0).last.is_visible(), "the widget hides the saved view"
        saved = open_.saved()
        assert "30 more lines" in saved.cells[0].outputs[-1].data["text/html"]
        page_file = tmp_path / "page.html"
        page_file.write_text(static.page(open_.path), "utf-8")
    with browser.page("file:") as (page, _):
        page.goto(page_file.as_uri())
        assert page.get_by_text("30 more lines").is_visible()
        assert page.get_by_text("as it was last seen").is_visible()
        assert page.get_by_text("waves/sine.csv").first.is_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_explorer_has_no_serious_violation_of_accessibility(notebook, registry, place_of_all, theme):
    cells = [
        f"import ocikit\nocikit.explore({registry.host!r})",
        "server = ocikit.serve()\nocikit.explore()",
        "ocikit.login_form('localhost:1', 'ada')",
    ]
    with notebook(cells, theme=theme) as open_:
        open_.run()
        area = open_.output(0).first
        found = []

        def check(what):
            open_.page.wait_for_timeout(400)
            found.extend(f"{what}: {problem}" for problem in axe.problems(open_.page, ".ocikit-explorer"))

        options(open_.output(1), "start with").wait_for()
        choose(options(area, "repositories"), "lab/all")
        check("repositories")
        choose(options(area, "tags"), "v1")
        files = options(area, "files")
        files.locator("option").nth(9).wait_for(state="attached")
        check("artifact")
        for number in range(files.locator("option").count()):
            files.select_option(index=number)
            area.locator(".ocikit-preview strong").last.wait_for()
            check(number)
        found += axe.problems(open_.page, ".jp-Notebook-cell:nth-of-type(2) .ocikit-explorer")
        found += axe.problems(open_.page, ".ocikit-form")
        assert found == []


def test_clearing_the_filter_logs_no_error(notebook, place_of_all):
    with notebook([f"import ocikit\nocikit.explore({place_of_all!r})"]) as open_:
        errors = []
        open_.page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        open_.run()
        area = open_.output(0).first
        files = options(area, "files")
        files.locator("option").nth(9).wait_for(state="attached")
        choose(files, "sine.csv")
        area.get_by_text("more lines").first.wait_for()
        field = area.get_by_label("filter files", exact=True)
        field.wait_for()
        for text, count in (("notes", 1), ("", 10), ("plot", 1), ("", 10)):
            field.fill(text)
            open_.page.wait_for_function(
                "([list, count]) => list.options.length === count", arg=[files.element_handle(), count]
            )
        open_.page.wait_for_timeout(500)
        assert [text for text in errors if "selected" in text or "Error setting state" in text] == []


def test_every_field_has_an_accessible_name(notebook, place):
    with notebook(
        [f"import ocikit\nocikit.explore({f'{place}:v1.10'!r})", "ocikit.login_form('localhost:1', 'ada')"]
    ) as open_:
        open_.run()
        options(open_.output(0), "files").locator("option").nth(2).wait_for(state="attached")
        open_.output(0).get_by_label("referrers", exact=True).wait_for()  # they arrive after the files
        for cell, expected in (
            (0, {"address", "tags", "files", "referrers"}),
            (1, {"user name", "password or token"}),
        ):
            fields = open_.output(cell).locator("input:visible, select:visible")
            names = fields.evaluate_all(
                "all => all.map(field => [...field.labels].map(label => label.textContent).join())"
            )
            assert all(names) and expected <= set(names), names


def test_enter_in_the_password_submits_the_login_form(notebook, registry):
    with notebook([f"import ocikit\nocikit.login_form({registry.host!r}, 'ada')"]) as open_:
        open_.run()
        area = open_.output(0).first
        password = area.get_by_label("password or token", exact=True)
        password.fill("wrong")
        password.press("Enter")
        area.get_by_text("logged in as ada").or_(area.get_by_text("needs no login")).or_(
            area.locator(".ocikit-problem")
        ).first.wait_for()
        assert password.input_value() == ""


def test_errors_are_shown_in_place(notebook, registry, shots):
    with notebook([f"import ocikit\nocikit.explore('{registry.host}/lab/nothing:v1')"]) as open_:
        open_.run()
        area = open_.output(0).first
        area.get_by_text("has no repository").first.wait_for()
        area.screenshot(path=shots("explorer-problem"))
        assert area.locator("[data-mime-type*=stderr]").count() == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 480])
def test_explorer_is_legible_in_every_theme_and_width(notebook, place, shots, theme, width):
    with notebook([f"import ocikit\nocikit.explore('{place}:v1.10')"], theme=theme, width=width) as open_:
        open_.run()
        open_.page.set_viewport_size({"width": width, "height": 1600})
        area = open_.output(0).first
        files = options(area, "files")
        files.locator("option").nth(2).wait_for(state="attached")
        files.select_option(index=2)
        area.get_by_text("more line").wait_for()
        area.screenshot(path=shots(f"explorer-{theme}-{width}"))
        assert area.first.evaluate("a => a.scrollWidth <= a.clientWidth + 1")
