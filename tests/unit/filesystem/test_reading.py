"""The file system reads artifacts by path: listings, ranges, pins, errors."""

import io
import os
import pickle
from datetime import UTC, datetime

import fsspec
import ocikit
import pytest
from fsspec.callbacks import Callback

from tests.support.home import moved, write

LARGE = os.urandom(6 << 20)
FILES = {"a.csv": b"x,y\n1,2\n", "deep/b.txt": b"b", "deep/er/c.txt": b"c", "large.bin": LARGE}


@pytest.fixture
def ref(session, server, home):
    write(home, FILES)
    created = {"org.opencontainers.image.created": "2026-01-02T03:04:05Z"}
    session.push(f"{server.host}/ds:v1", "a.csv", "deep", "large.bin", annotations=created)
    server.requests.clear()
    return f"{server.host}/ds:v1"


@pytest.fixture
def fs(session):
    return ocikit.fs(session)


def test_listing_costs_one_artifact(fs, ref, server):
    assert fs.ls(ref, detail=False) == [f"{ref}/a.csv", f"{ref}/deep", f"{ref}/large.bin"]
    assert len(moved(server)) <= 2
    assert sorted(fs.find(ref)) == sorted(f"{ref}/{name}" for name in FILES)
    assert fs.glob(f"ocikit://{ref}/**/*.txt") == [f"{ref}/deep/b.txt", f"{ref}/deep/er/c.txt"]
    assert fs.ls(f"{ref}/deep", detail=False) == [f"{ref}/deep/b.txt", f"{ref}/deep/er"]
    assert moved(server) == []


def test_missing_name_costs_no_request(fs, ref, server):
    fs.ls(ref)
    server.requests.clear()
    with pytest.raises(FileNotFoundError) as caught:
        fs.info(f"{ref}/a.cvs")
    assert "a.csv" in str(caught.value)
    assert not fs.exists(f"{ref}/x")
    assert not fs.isfile(f"{ref}/deep")
    assert fs.isdir(f"{ref}/deep")
    assert moved(server) == []


def test_info_describes_the_file(fs, ref):
    info = fs.info(f"{ref}/a.csv")
    digest = str(ocikit.Digest.of(FILES["a.csv"]))
    assert (info["name"], info["size"], info["type"], info["digest"]) == (f"{ref}/a.csv", 8, "file", digest)
    assert info["ETag"] == f'"{digest}"'
    assert fs.ukey(f"{ref}/a.csv") == digest
    assert fs.checksum(f"{ref}/a.csv") == int(digest.partition(":")[2], 16)
    assert fs.modified(f"{ref}/a.csv") == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize("name", FILES)
def test_content_is_read_whole(fs, ref, name):
    assert fs.cat_file(f"{ref}/{name}") == FILES[name]
    with fs.open(f"{ref}/{name}") as stream:
        assert stream.read() == FILES[name]
        stream.seek(-1, io.SEEK_END)
        assert stream.read() == FILES[name][-1:]


@pytest.mark.parametrize(
    ("start", "end"), [(0, 10), (5, None), (-7, None), (-9, -2), (100, 50), (1 << 20, (1 << 20) + 5)]
)
def test_ranges_are_slices(fs, ref, start, end):
    assert fs.cat_file(f"{ref}/large.bin", start, end) == LARGE[start:end]


def test_ranges_of_files_have_errors_in_place(fs, ref):
    paths = [f"{ref}/large.bin", f"{ref}/absent", f"{ref}/large.bin"]
    first, missing, last = fs.cat_ranges(paths, [10, 0, 5 << 20], [20, 5, (5 << 20) + 7])
    assert (first, last) == (LARGE[10:20], LARGE[5 << 20 : (5 << 20) + 7])
    assert isinstance(missing, FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges(paths, 0, 5, on_error="raise")


def test_lines_are_read_by_few_requests(fs, session, server, home):
    """fsspec looks for the end of each line in a block of 5 MiB, and then seeks back."""
    lines = [b"%060d\n" % n for n in range(100_000)]
    write(home, {"lines.txt": b"".join(lines)})
    session.push(f"{server.host}/lines:v1", "lines.txt")
    with fs.open(f"{server.host}/lines:v1/lines.txt") as stream:
        server.requests.clear()
        assert [stream.readline(), stream.readline(7), stream.readline()] == [lines[0], lines[1][:7], lines[1][7:]]
        assert [r.headers["Range"] for r in server.seen("GET", "/v2/lines/blobs/.*")] == ["bytes=0-65535"]
        assert stream.tell() == 122 and next(stream) == lines[2]
        assert list(stream) == lines[3:]
    assert len(server.requests) <= 10


def test_tag_stays_pinned_until_refresh(fs, ref, session, home):
    assert fs.cat_file(f"{ref}/a.csv") == FILES["a.csv"]
    write(home, {"a.csv": "new"})
    session.push(ref, "a.csv")
    assert fs.cat_file(f"{ref}/a.csv") == FILES["a.csv"]
    assert fs.ls(ref, refresh=True, detail=False) == [f"{ref}/a.csv"]
    assert fs.cat_file(f"{ref}/a.csv") == b"new"


def test_pickle_has_pins_and_no_requests(fs, ref, session, home, server):
    fs.info(f"{ref}/a.csv")
    write(home, {"a.csv": "new"})
    session.push(ref, "a.csv")
    copy = pickle.loads(pickle.dumps(fs))
    assert copy.cat_file(f"{ref}/a.csv") == FILES["a.csv"]


def test_each_pickle_reads_its_own_version(ref, session, home):
    """A worker has read one version, and gets the tasks of a graph that was made for another one."""
    pickles = []
    for content in (FILES["a.csv"], b"new"):
        write(home, {"a.csv": content})
        session.push(ref, "a.csv")
        files = ocikit.fs()
        files.invalidate_cache()
        assert files.cat_file(f"{ref}/a.csv") == content
        pickles.append((content, pickle.dumps(files)))
    for content, pickled in (*pickles, *reversed(pickles)):
        assert pickle.loads(pickled).cat_file(f"{ref}/a.csv") == content
    assert pickle.loads(pickles[0][1]).view is pickle.loads(pickles[0][1]).view


@pytest.mark.parametrize(
    ("call", "name"),
    [("open", "a.csv"), *((call, name) for call in ("open", "ls", "info", "exists") for name in ("y=1/a.parquet", "Deep/b"))],
)  # fmt: skip
def test_path_without_tag_is_rejected_with_hint(fs, ref, server, call, name):
    """The hint has the tag at the end of the repository, not at the end of the path."""
    with pytest.raises(ocikit.InvalidReference) as caught:
        getattr(fs, call)(f"{server.host}/ds/{name}")
    assert "has no tag" in caught.value.message
    assert f"'ocikit://{server.host}/ds:latest/{name}'" in caught.value.hint


def test_repository_lists_its_tags(fs, ref):
    assert fs.ls(ref.removesuffix(":v1"), detail=False) == [ref]


def test_missing_repository_does_not_exist(fs, ref, server):
    repository, absent = ref.removesuffix(":v1"), f"{server.host}/absent"
    assert (fs.exists(repository), fs.isdir(repository), fs.isfile(repository)) == (True, True, False)
    assert (fs.exists(absent), fs.isdir(absent)) == (False, False)
    with pytest.raises(FileNotFoundError, match="has no repository absent"):
        fs.ls(absent)


def test_missing_path_to_copy_has_a_hint(fs, ref, home):
    """fsspec's own message is a list with the path."""
    for call in (lambda: fs.get(f"{ref}/a.cvs", "out"), lambda: fs.get(f"{ref}/a.cvs", "out", recursive=True)):
        with pytest.raises(FileNotFoundError) as caught:
            call()
        assert "a.csv" in caught.value.hint


def test_failed_listing_raises(fs, server):
    """fsspec's walk leaves out a folder whose listing fails for any reason."""
    server.on("GET|HEAD", "/v2/secret/.*", status=403, times=99)
    for call in (fs.walk, fs.find, fs.glob, fs.du):
        with pytest.raises(PermissionError):
            list(call(f"{server.host}/secret:v1"))
    assert list(fs.walk(f"{server.host}/absent:v1")) == []
    with pytest.raises(FileNotFoundError):
        list(fs.walk(f"{server.host}/absent:v1", on_error="raise"))


def test_missing_tag_raises_file_not_found(fs, ref):
    with pytest.raises(FileNotFoundError):
        fs.ls(f"{ref}x")
    assert not fs.exists(f"{ref}x")


def test_rejected_credentials_are_a_permission_error(fs, server):
    server.on("GET|HEAD", "/v2/secret/.*", status=403, times=9)
    with pytest.raises(PermissionError):
        fs.exists(f"{server.host}/secret:v1/a")


@pytest.mark.parametrize("name", ["credentials", "username", "password", "token"])
def test_option_with_a_secret_is_rejected(name):
    """fsspec accepts any option, and shows all of them in JSON and in pickles."""
    with pytest.raises(ocikit.InvalidArgument) as caught:
        fsspec.filesystem("ocikit", **{name: "hunter2"})
    assert "ocikit.login" in caught.value.hint
    assert "hunter2" not in str(caught.value)


def test_invalid_option_is_rejected():
    for options in ({"workers": 0}, {"timeout": -1}, {"cache": "all"}, {"insecure": "localhost"}):
        with pytest.raises(ocikit.InvalidArgument):
            fsspec.filesystem("ocikit", **options)


def test_opened_folder_is_an_error(fs, ref):
    for path, name in ((f"{ref}/deep", "deep/b.txt"), (ref, "a.csv")):
        with pytest.raises(IsADirectoryError) as caught:
            fs.open(path)
        assert str(caught.value) == f"{path} is a folder; name a file in it, such as {name!r}"


def test_files_are_copied_to_disk(fs, ref, home):
    seen = Callback()
    fs.get(f"{ref}/deep", "out", recursive=True)
    fs.get_file(f"{ref}/large.bin", "large.copy", callback=seen)
    assert (home / "out/er/c.txt").read_bytes() == b"c"
    assert (home / "large.copy").read_bytes() == LARGE
    assert (seen.size, seen.value) == (len(LARGE), len(LARGE))


def test_artifact_has_a_file_system(session, ref):
    art = session.inspect(ref)
    assert art.fs.cat_file("deep/b.txt") == b"b"
    assert sorted(art.fs.find("")) == sorted(FILES)


def test_layout_on_disk_is_read_by_url(session, ref, home):
    session.copy(ref, "oci:images:v1")
    with fsspec.open(f"ocikit://{home}/images:v1/a.csv") as stream:
        assert stream.read() == FILES["a.csv"]


def test_url_is_opened_by_fsspec(ref, home):
    with fsspec.open(f"ocikit://{ref}/a.csv", "rt") as stream:
        assert stream.read() == "x,y\n1,2\n"


def test_url_names_the_blob_at_the_registry(fs, ref, server):
    digest = ocikit.Digest.of(FILES["a.csv"])
    assert fs.url(f"{ref}/a.csv") == f"http://{server.host}/v2/ds/blobs/{digest}"
    with pytest.raises(ocikit.Unsupported):
        fs.sign(f"{ref}/a.csv")
