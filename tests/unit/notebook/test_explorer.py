"""Explorer: each click makes one request, shows its result and the equivalent code."""

import base64
import hashlib
import json
import pickle
import sys

import ipywidgets as w
import msgspec
import ocikit
import pytest
from ocikit import errors
from ocikit.notebook.column import PAGE, SORTED
from ocikit.store.cache.cache import Cache

from tests.support.fake_registry import INDEX, MANIFEST, Response, error_response
from tests.support.widgets import encode_strictly, marimo_module, tree
from tests.tools import notebooks
from tests.unit.descriptions.files import TABLE, parquet_file, safetensors_file

EMPTY = {
    "mediaType": "application/vnd.oci.empty.v1+json",
    "digest": f"sha256:{hashlib.sha256(b'{}').hexdigest()}",
    "size": 2,
}
MARKUP = '"><img src=x onerror=alert(1)>'


@pytest.fixture
def session(tmp_path):
    with ocikit.Session(
        credentials=lambda *_: None, cache=Cache(tmp_path / "cache"), progress=False, network=ocikit.Network(retries=0)
    ) as session:
        yield session


@pytest.fixture
def explore(session):
    def open_explorer(start=""):
        explorer = ocikit.explore(start, session)
        assert explorer.wait()
        return explorer

    return open_explorer


def put(server, name, files, *tags, **fields):
    """Push an artifact of files to the fake registry and return its digest."""
    layers = [
        {
            "mediaType": "application/octet-stream",
            "digest": server.blob(name, content),
            "size": len(content),
            "annotations": {"org.opencontainers.image.title": title},
        }
        for title, content in files.items()
    ]
    server.blob(name, b"{}")
    return server.manifest(
        name,
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": "text/x",
            "config": EMPTY,
            "layers": layers,
            **fields,
        },
        *tags,
    )


def select(explorer, widget, value):
    widget.value = value
    assert explorer.wait()


def options(widget):
    """Return the labels of a list, with single spaces between their columns."""
    return [" ".join(label.split()) for label, _ in widget.options]


def is_visible(box):
    return box.layout.display != "none"


# Navigation


def test_registry_leads_to_repositories_tags_and_files(server, explore):
    put(server, "team/waves", {"a.csv": b"x,y\n1,2\n", "b.txt": b"hello"}, "v1", "v2")
    put(server, "team/other", {"c": b"c"}, "v1")
    explorer = explore(server.host)
    assert options(explorer.repositories.list) == ["team/other", "team/waves"]
    assert explorer.code.value == f'ocikit.catalog("{server.host}")'
    select(explorer, explorer.repositories.list, "team/waves")
    assert options(explorer.tags.list) == ["v2", "v1"]
    assert explorer.code.value == f'ocikit.tags("{server.host}/team/waves")'
    select(explorer, explorer.tags.list, "v2")
    assert explorer.code.value == f'ocikit.inspect("{server.host}/team/waves:v2")'
    assert options(explorer.files) == ["a.csv 8 B", "b.txt 5 B"]
    select(explorer, explorer.files, (1,))
    assert "hello" in explorer.preview.value
    assert explorer.code.value.startswith("ocikit.open(")
    select(explorer, explorer.files, (0, 1))
    assert eval(explorer.code.value.replace("ocikit.pull", "dict(f=lambda *a, **k: k)['f']")) == {
        "include": ["a.csv", "b.txt"]
    }


def test_reference_with_tag_opens_artifact_and_lists_tags(server, explore):
    put(server, "a/b", {"f": b"f"}, "v1", "v2")
    explorer = explore(f"{server.host}/a/b:v2")
    assert explorer.tags.list.value == "v2"
    assert options(explorer.files) == ["f 1 B"]
    assert not is_visible(explorer.repositories.widget)


def test_index_leads_to_its_manifests(server, explore):
    inner = put(server, "a/b", {"f": b"f"})
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [
            {
                "mediaType": MANIFEST,
                "digest": inner,
                "size": len(server.manifests["a/b", inner][0]),
                "platform": {"os": "linux", "architecture": "arm64"},
            }
        ],
    }
    server.manifest("a/b", index, "multi", media_type=INDEX)
    explorer = explore(f"{server.host}/a/b:multi")
    assert is_visible(explorer.manifests_box)
    assert not is_visible(explorer.files_box)
    assert "linux/arm64" in options(explorer.manifests)[0]
    select(explorer, explorer.manifests, inner)
    assert options(explorer.files) == ["f 1 B"]
    assert is_visible(explorer.manifests_box), "another manifest can be selected"


def test_referrer_can_be_opened_and_left(server, explore):
    subject = put(server, "a/b", {"f": b"f"}, "v1")
    descriptor = {"mediaType": MANIFEST, "digest": subject, "size": len(server.manifests["a/b", subject][0])}
    report = put(server, "a/b", {"report": b"fine"}, subject=descriptor)
    explorer = explore(f"{server.host}/a/b:v1")
    assert "text/x" in options(explorer.referrers)[0]
    select(explorer, explorer.referrers, report)
    assert options(explorer.files) == ["report 4 B"]
    explorer.back.click()
    assert explorer.wait()
    assert options(explorer.files) == ["f 1 B"]


def test_tensors_and_tables_are_described(server, explore):
    files = {
        "a.safetensors": safetensors_file(),
        "b.parquet": parquet_file(),
        "c.pkl": pickle.dumps([1]),
        "d.npy": b"nonsense",
    }
    put(server, "t/model", files, "v1")
    explorer = explore(f"{server.host}/t/model:v1")
    shown = []
    for i in range(len(files)):
        select(explorer, explorer.files, (i,))
        shown.append(explorer.preview.value)
        assert explorer.code.value.startswith("ocikit.describe(")
    assert "layer.0.weight" in shown[0]
    assert "100,000 rows" in shown[1]
    assert "opening it runs code" in shown[2]
    assert "as npy failed" in shown[3]


def test_layout_can_be_explored(server, session, explore, tmp_path):
    put(server, "a/b", {"f": b"content"}, "v1")
    session.copy(f"{server.host}/a/b:v1", f"oci:{tmp_path}/layout:v1")
    explorer = explore(f"oci:{tmp_path}/layout")
    assert options(explorer.tags.list) == ["v1"]
    select(explorer, explorer.tags.list, "v1")
    select(explorer, explorer.files, (0,))
    assert "content" in explorer.preview.value


# Long lists


def test_hundred_thousand_tags_are_fetched_on_demand(server, explore):
    digest = put(server, "a/b", {"f": b"f"})
    server.tags |= {("a/b", f"v{i:06}"): digest for i in range(100_000)}
    explorer = explore(f"{server.host}/a/b")
    assert options(explorer.tags.list)[:2] == ["v000000", "v000001"]
    assert len(explorer.tags.list.options) == PAGE
    assert len(server.seen("GET", ".*/tags/list")) <= SORTED // 100
    explorer.tags.more.click()
    assert explorer.wait()
    assert len(explorer.tags.list.options) == 2 * PAGE
    explorer.tags.filter.value = "99998"
    assert explorer.wait(120)
    assert options(explorer.tags.list) == ["v099998"]
    explorer.tags.filter.value = ""
    explorer.tags.order.value = "newest first"
    assert explorer.wait(120)
    assert options(explorer.tags.list)[:2] == ["v099999", "v099998"]


def press_enter(field):
    """Send what a front end sends when Enter is pressed in a field."""
    field._handle_custom_msg({"event": "submit"}, [])


def test_enter_in_filter_opens_first_match(server, explore):
    put(server, "team/waves", {"a.csv": b"x,y\n1,2\n", "b.txt": b"hello"}, "v1", "v2")
    explorer = explore(server.host)
    explorer.repositories.filter.value = "wav"
    press_enter(explorer.repositories.filter)
    assert explorer.wait()
    explorer.tags.filter.value = "2"
    press_enter(explorer.tags.filter)
    assert explorer.wait()
    explorer.filter.value = "b."
    press_enter(explorer.filter)
    assert explorer.wait()
    assert "hello" in explorer.preview.value
    assert f"{server.host}/team/waves:v2" in explorer.code.value


# Stale requests


def test_late_response_to_old_request_is_ignored(server, explore):
    put(server, "a/b", {"old": b"old"}, "v1")
    put(server, "a/b", {"new": b"new"}, "v2")
    explorer = explore(f"{server.host}/a/b")
    server.on("HEAD|GET", ".*/manifests/v1", times=None, delay=1.0)
    explorer.tags.list.value = "v1"
    explorer.tags.list.value = "v2"
    assert explorer.wait()
    assert options(explorer.files) == ["new 3 B"]


def test_quick_selection_changes_fetch_only_the_last(server, explore):
    for i in range(5):
        put(server, "a/b", {f"f{i}": b"f"}, f"v{i}")
    explorer = explore(f"{server.host}/a/b")
    for i in range(5):
        explorer.tags.list.value = f"v{i}"
    assert explorer.wait()
    assert {r.path.rpartition("/")[2] for r in server.seen("HEAD", ".*/manifests/v.")} == {"v4"}


# Errors


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("https://ghcr.io/a/b", "leave out the scheme"),
        ("A b", "lower-case"),
        ("oci:", "has no folder"),
    ],
)
def test_invalid_start_raises(session, start, expected):
    with pytest.raises(errors.InvalidReference, match=expected):
        ocikit.explore(start, session)


def test_invalid_address_is_shown(server, explore):
    explorer = explore()
    explorer.address.value = "https://x.example/a"
    assert "leave out the scheme" in explorer.status.value


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"status": 401, "headers": {"WWW-Authenticate": 'Basic realm="r"'}}, "ocikit.login"),
        ({"status": 500}, "the registry failed"),
        ({"drop": "before"}, "no answer"),
    ],
)
def test_registry_error_is_shown_in_its_column(server, explore, fault, expected):
    put(server, "a/b", {"f": b"f"}, "v1")
    server.on("GET", ".*/tags/list", times=None, **fault)
    explorer = explore(f"{server.host}/a/b:v1")
    assert expected in explorer.tags.status.value
    assert options(explorer.files) == ["f 1 B"], "other parts still work"


def test_unsupported_catalog_shows_alternative(server, explore):
    server.on("GET", "/v2/_catalog", times=None, status=404)
    assert "list its tags" in explore(server.host).repositories.status.value


def test_unknown_tag_shows_nearest(server, explore):
    put(server, "a/b", {"f": b"f"}, "v1")
    assert "nearest: v1" in explore(f"{server.host}/a/b:v2").status.value


# Downloads


def test_selected_files_with_glob_characters_are_downloaded(server, explore, tmp_path):
    put(server, "a/b", {"a[1]*.txt": b"one", "a1x.txt": b"two", "c": b"three"}, "v1")
    explorer = explore(f"{server.host}/a/b:v1")
    explorer.folder.value = str(tmp_path / "out")
    explorer.files.value = (0,)
    explorer.download.click()
    assert explorer.wait()
    assert [p.name for p in (tmp_path / "out").iterdir() if not p.name.startswith(".")] == ["a[1]*.txt"]
    assert "pulled 1 file" in explorer.saving.value
    assert f"saved in {tmp_path}/out" in explorer.saving.value
    assert not is_visible(explorer.bar)
    assert not explorer.download.disabled


def test_download_without_selection_pulls_all_files(server, explore, tmp_path):
    put(server, "a/b", {"a": b"one", "b": b"two"}, "v1")
    explorer = explore(f"{server.host}/a/b:v1")
    explorer.folder.value = str(tmp_path / "out")
    explorer.download.click()
    assert explorer.wait()
    assert {p.name for p in (tmp_path / "out").iterdir() if not p.name.startswith(".")} == {"a", "b"}


def test_download_can_be_stopped(server, explore, tmp_path):
    put(server, "a/b", {"big": bytes(20 << 20)}, "v1")
    explorer = explore(f"{server.host}/a/b:v1")
    explorer.folder.value = str(tmp_path / "out")
    server.on("GET", ".*/blobs/.*", change=lambda *_: explorer.stop.click())
    explorer.download.click()
    assert explorer.wait()
    assert "stopped" in explorer.saving.value
    assert not (tmp_path / "out" / "big").exists()


def test_failed_download_shows_error(server, explore, tmp_path):
    put(server, "a/b", {"f": b"f"}, "v1")
    explorer = explore(f"{server.host}/a/b:v1")
    explorer.folder.value = str(tmp_path / "out")
    server.on("GET", ".*/blobs/.*", times=None, status=500)
    explorer.download.click()
    assert explorer.wait()
    assert "the registry failed" in explorer.saving.value
    assert not is_visible(explorer.bar)


# Hostile content


def test_hostile_registry_content_is_escaped(server, explore):
    bad = MARKUP + "\x1b[31m\u202e"
    put(server, "a/b", {"f": bad.encode()}, "v1", annotations={bad: bad}, artifactType=bad)
    server.on("GET", ".*/tags/list", times=None, change=lambda *_: Response(500, {}, bad.encode()))
    explorer = explore(f"{server.host}/a/b:v1")
    select(explorer, explorer.files, (0,))
    pages = [explorer.card, explorer.status, explorer.tags.status, explorer.preview, explorer.files_status]
    html = "".join(page.value for page in pages)
    assert "&lt;img src=x" in html
    assert "<img src=x" not in html
    assert not set(html + "".join(options(explorer.files))) & set("\x1b\u202e")


def test_saved_notebook_shows_current_view(server, explore):
    put(server, "a/b", {"f": b"f"}, "v1")
    explorer = explore(f"{server.host}/a/b:v1")
    data = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert server.host in data["text/html"]
    assert "ocikit.inspect" in data["text/plain"]
    json.dumps(data)


def test_view_of_a_saved_notebook_follows_the_widget(server, tmp_path):
    """The kernel updates the second output with each view."""
    put(server, "a/b", {"f.csv": b"x,y\n<b>,2\n"}, "v1")
    cells = [
        f"import ocikit\nexplorer = ocikit.explore('{server.host}/a/b:v1')\nexplorer",
        "explorer.wait(); explorer.files.value = (0,); explorer.wait()",
    ]
    outputs = notebooks.run_cells(cells, tmp_path)[0].outputs
    widget, seen = (output.data for output in outputs)
    assert "application/vnd.jupyter.widget-view+json" in widget and "text/html" not in widget
    assert "<th>x</th>" in seen["text/html"] and "&lt;b&gt;" in seen["text/html"]
    assert "ocikit.open(" in seen["text/html"]


def test_view_lists_names_before_an_artifact_is_opened(server, explore):
    put(server, "team/waves", {"a": b"a"}, "v1", "<b>")
    explorer = explore(server.host)
    assert "<code>team/waves</code>" in explorer.seen()
    select(explorer, explorer.repositories.list, "team/waves")
    assert "select a tag" in explorer.card.value
    assert "<code>v1</code>" in explorer.seen() and "team/waves</code>" not in explorer.seen()
    assert "<b>" not in explorer.seen()


def test_parquet_preview_has_schema_and_first_rows(server, explore):
    put(server, "t/table", {"b.parquet": parquet_file(), "empty.parquet": parquet_file(TABLE.slice(0, 0))}, "v1")
    explorer = explore(f"{server.host}/t/table:v1")
    select(explorer, explorer.files, (0,))
    assert "the first 20 of 100,000 rows" in explorer.preview.value
    assert explorer.preview.value.count("<td>") > 20
    select(explorer, explorer.files, (1,))
    assert "0 rows" in explorer.preview.value


def test_crumbs_lead_up(server, explore):
    put(server, "team/waves", {"a": b"a"}, "v1")
    explorer = explore(f"{server.host}/team/waves:v1")
    assert [crumb.description for crumb in explorer.crumbs.children] == [server.host, "team/waves", "v1"]
    explorer.crumbs.children[0].click()
    assert explorer.wait()
    assert options(explorer.repositories.list) == ["team/waves"]
    assert explorer.code.value == f'ocikit.catalog("{server.host}")'


def test_folder_of_a_download_is_shown_as_absolute_path(server, explore, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    put(server, "a/b", {"a": b"one", "b": b"two"}, "v1")
    explorer = explore(f"{server.host}/a/b:v1")
    assert "saves all 2 files (6 B) to ~/downloads" in explorer.saving.value
    select(explorer, explorer.files, (1,))
    explorer.folder.value = "~/else"
    assert "saves 1 file (3 B) to ~/else" in explorer.saving.value
    explorer.folder.value = "/somewhere/"
    assert "to /somewhere<" in explorer.saving.value


def test_explorer_works_without_anywidget(server, explore, monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    put(server, "a/b", {"f": b"f"}, "v1")
    assert options(explore(f"{server.host}/a/b:v1").files) == ["f 1 B"]


def test_marimo_shows_the_view_without_a_widget(server, session, monkeypatch):
    monkeypatch.setitem(sys.modules, "marimo", marimo_module([]))
    put(server, "a/b", {"f": b"f"}, "v1")
    data = ocikit.explore(f"{server.host}/a/b:v1", session)._repr_mimebundle_()
    assert set(data) == {"text/plain", "text/html"}
    assert "marimo shows no ipywidgets" in data["text/html"] and "a/b" in data["text/html"]


def test_registry_that_requires_a_login_shows_a_form(server, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    put(server, "a/b", {"f": b"f"}, "v1")
    expected = "Basic " + base64.b64encode(b"ada:secret").decode()
    challenge = {"WWW-Authenticate": 'Basic realm="r"'}
    server.guard = lambda request: (
        None if request.headers.get("Authorization") == expected else Response(401, challenge)
    )
    with ocikit.Session(cache=tmp_path / "cache", progress=False) as session:
        explorer = ocikit.explore(f"{server.host}/a/b", session)
        assert explorer.wait()
        form = explorer.login_form
        form.username.value, form.password.value = "ada", "secret"
        form.button.click()
        assert form.wait() and explorer.wait()
        assert options(explorer.tags.list) == ["v1"]
        assert explorer.login_box.children == ()


def test_failing_referrers_do_not_hide_files(server, explore):
    put(server, "a/b", {"f": b"f"}, "v1")
    server.on("GET", ".*/referrers/.*", times=None, change=lambda *_: error_response(500, "UNKNOWN"))
    explorer = explore(f"{server.host}/a/b:v1")
    assert options(explorer.files) == ["f 1 B"]
    assert not is_visible(explorer.referrers_box)


# Strict front ends


def test_explorer_state_encodes_strictly(server, explore):
    put(server, "team/waves", {"a.csv": b"x,y\n1,2\n", "b.txt": b"hello"}, "v1", "v2")
    explorer = explore(server.host)
    select(explorer, explorer.repositories.list, "team/waves")
    select(explorer, explorer.tags.list, "v2")
    for chosen in ((0,), (1,), (0, 1)):
        select(explorer, explorer.files, chosen)
        encode_strictly(explorer.widget)
    bundle = explorer._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert msgspec.json.decode(msgspec.json.encode(data)) == data
    assert [type(text) for key, text in data.items() if key.startswith("text/")] == [str, str]
    explorer.open("nowhere.invalid/x:v1")
    assert explorer.wait()
    encode_strictly(explorer.widget)


# Labels and order of state


def test_every_field_and_list_has_a_label(server, explore):
    put(server, "team/waves", {"a.csv": b"x"}, "v1")
    explorer = explore(f"{server.host}/team/waves:v1")
    fields = [
        part for part in tree(explorer.widget) if isinstance(part, (w.Text, w.Select, w.SelectMultiple, w.Dropdown))
    ]
    names = [field.description for field in fields]
    assert len(names) == len(set(names)) == 14 and all(names), names
    assert {"repositories", "tags", "files", "manifests", "referrers"} <= set(names)


def test_filter_never_sends_a_selection_beyond_the_options(server, explore, monkeypatch):
    """A browser reports an error for such a state, in between two messages too."""
    put(server, "team/waves", {f"{n}.csv": b"x" for n in range(7)}, "v1", "v2", "v3")
    explorer = explore(f"{server.host}/team/waves:v3")
    select(explorer, explorer.files, (6,))
    lists, sent = (explorer.files, explorer.tags.list), []
    browser = {one: {"labels": one._options_labels, "index": one.index} for one in lists}

    def send_state(widget, key=None):
        state = browser.get(widget, {})
        keys = {key} if isinstance(key, str) else set(key or widget.keys)
        if "_options_labels" in keys:
            state["labels"] = widget._options_labels
        if "index" in keys:
            state["index"] = widget.index
        if widget in lists:
            chosen = state["index"] if isinstance(state["index"], tuple) else (state["index"] or 0,)
            sent.append(all(index < max(len(state["labels"]), 1) for index in chosen))

    for kind in (w.Select, w.SelectMultiple):
        monkeypatch.setattr(kind, "send_state", send_state)
    for text in ("6", "", "0", "none", ""):
        select(explorer, explorer.filter, text)
        select(explorer, explorer.tags.filter, text and "v1")
    assert len(sent) >= 5 and all(sent)
    assert explorer.files.value == ()
    assert explorer.code.value == f'ocikit.inspect("{server.host}/team/waves:v3")'
