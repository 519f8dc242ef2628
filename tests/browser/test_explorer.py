"""The explorer in JupyterLab: clicks and keys lead from a registry to file bytes, in light and dark, wide and narrow."""

import json
import struct
import zlib

import ocikit
import pytest

from tests.support import peers


def picture(size):
    """Build a square PNG with a given side in pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"".join(bytes((x * 4 % 256, y * 4 % 256, 128)) for x in range(size)) for y in range(size))
    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


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


def options(area, title):
    """Return the list with a label."""
    return area.get_by_label(title, exact=True).first


def test_clicks_lead_from_registry_to_file_bytes(notebook, registry, place, shots):
    with notebook([f"import ocikit\nocikit.explore({registry.host!r})"]) as open_:
        open_.run()
        area = open_.output(0)
        repositories = options(area, "repositories")
        repositories.locator("option", has_text="lab/waves").wait_for(state="attached")
        area.screenshot(path=shots("explorer-1-registry"))
        repositories.select_option(label="lab/waves")
        tags = options(area, "tags")
        tags.locator("option", has_text="v1.10").wait_for(state="attached")
        area.locator(".widget-dropdown select:visible").select_option("newest first")
        open_.page.wait_for_function("() => [...document.querySelectorAll('select option')].map(o => o.textContent).join().includes('v1.10,v1.9,v1.2')")  # fmt: skip
        area.screenshot(path=shots("explorer-2-tags"))
        tags.select_option(label="v1.10")
        files = options(area, "files")
        files.locator("option").nth(2).wait_for(state="attached")
        area.screenshot(path=shots("explorer-3-files"))
        assert [text.split()[0] for text in files.locator("option").all_inner_texts()] == [
            "waves/notes.json",
            "waves/plot.png",
            "waves/sine.csv",
        ]
        files.select_option(index=2)
        area.get_by_text("23 more lines").or_(area.get_by_text("30 more lines")).wait_for()
        area.screenshot(path=shots("explorer-4-table"))
        files.select_option(index=1)
        area.locator("img.widget-image").wait_for()
        assert area.locator("img.widget-image").evaluate("i => i.naturalWidth") == 64
        area.screenshot(path=shots("explorer-5-picture"))
        files.select_option(index=0)
        area.get_by_text('"ada"').wait_for()
        area.get_by_role("button", name="Download").click()
        area.get_by_text("pulled 1 file").wait_for()
        area.screenshot(path=shots("explorer-6-downloaded"))
        options(area, "referrers").select_option(index=1)
        files.locator("option", has_text="report.txt").wait_for(state="attached")
        area.screenshot(path=shots("explorer-7-attached"))
        area.get_by_role("button", name="Back").click()
        files.locator("option", has_text="waves/plot.png").wait_for(state="attached")
        assert open_.seen.elsewhere == []
        assert open_.seen.errors == []


def test_keyboard_is_sufficient(notebook, place):
    with notebook(["import ocikit\nocikit.explore()"]) as open_:
        open_.run()
        area, keyboard = open_.output(0), open_.page.keyboard
        area.get_by_placeholder("oci:folder").focus()
        keyboard.type(place)
        keyboard.press("Enter")
        options(area, "tags").locator("option", has_text="v1.9").wait_for(state="attached")
        area.get_by_placeholder("filter tags").focus()
        keyboard.type("1.10")
        keyboard.press("Enter")
        area.get_by_placeholder("filter files").wait_for()
        area.get_by_placeholder("filter files").focus()
        keyboard.type("notes")
        keyboard.press("Enter")
        area.get_by_text('"ada"').wait_for()
        assert "ocikit.open(" in area.locator("input[type=text]").last.input_value()
        while open_.page.evaluate("document.activeElement.textContent") != "Download":
            keyboard.press("Tab")
        keyboard.press("Enter")
        area.get_by_text("pulled 1 file").wait_for()


def test_clearing_the_filter_logs_no_error(notebook, place):
    with notebook([f"import ocikit\nocikit.explore({f'{place}:v1.10'!r})"]) as open_:
        errors = []
        open_.page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        open_.run()
        area = open_.output(0)
        files = options(area, "files")
        files.locator("option").nth(2).wait_for(state="attached")
        files.select_option(index=2)
        area.get_by_text("more lines").first.wait_for()
        field = area.get_by_label("filter files", exact=True)
        for text, count in (("notes", 1), ("", 3), ("plot", 1), ("", 3)):
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
            (0, {"address", "tags", "files", "filter files", "referrers"}),
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
        area = open_.output(0)
        password = area.get_by_label("password or token", exact=True)
        password.fill("wrong")
        password.press("Enter")
        area.get_by_text("logged in as ada").or_(area.get_by_text("needs no login")).or_(
            area.locator("div[style*=d9534f]")
        ).first.wait_for()
        assert password.input_value() == ""


def test_errors_are_shown_in_place(notebook, registry, shots):
    with notebook([f"import ocikit\nocikit.explore('{registry.host}/lab/nothing:v1')"]) as open_:
        open_.run()
        area = open_.output(0)
        area.get_by_text("has no repository").first.wait_for()
        area.screenshot(path=shots("explorer-problem"))
        assert area.locator("[data-mime-type*=stderr]").count() == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 480])
def test_explorer_is_legible_in_every_theme_and_width(notebook, place, shots, theme, width):
    with notebook([f"import ocikit\nocikit.explore('{place}:v1.10')"], theme=theme, width=width) as open_:
        open_.run()
        open_.page.set_viewport_size({"width": width, "height": 1600})
        area = open_.output(0)
        files = options(area, "files")
        files.locator("option").nth(2).wait_for(state="attached")
        files.select_option(index=2)
        area.get_by_text("more line").wait_for()
        area.screenshot(path=shots(f"explorer-{theme}-{width}"))
        assert area.first.evaluate("a => a.scrollWidth <= a.clientWidth + 1")
