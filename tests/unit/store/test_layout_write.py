"""Writing to layouts: several processes, crashes, full disks, deletion."""

import io
import os
import random
import shutil
import signal
import subprocess
import threading
import time

import pytest
from ocikit.errors import (
    ContentError,
    InUse,
    InvalidDocument,
)
from ocikit.spec import media_types as mt
from ocikit.spec.annotations import REF_NAME
from ocikit.spec.descriptor import Descriptor
from ocikit.store.layout.layout import Layout

from tests.contracts.store import (
    SBOM,
    on,
    push_artifact,
    push_blob,
    push_document,
    push_image,
    push_index,
)
from tests.support.layouts import blob_digests, content_of, read_index, start_python, wait_for


@pytest.fixture
def layout(tmp_path):
    with Layout(tmp_path / "layout") as layout:
        yield layout


def test_invalid_manifest_is_not_stored(layout):
    raw = b'{"schemaVersion": 2, "layers": "none"}'
    with pytest.raises(InvalidDocument):
        push_document(layout, raw, mt.OCI_MANIFEST, tag="bad")
    assert blob_digests(layout) == set()
    assert layout.tags() == []


def test_delete_of_content_in_use_names_its_users(layout):
    child = push_image(layout, tag="child")
    push_index(layout, [push_index(layout, [on(child, "linux/amd64")])], tag="all")
    before = read_index(layout), blob_digests(layout)
    with pytest.raises(InUse, match="part of all") as caught:
        layout.delete(child)
    assert [descriptor.annotations[REF_NAME] for descriptor in caught.value.users] == ["all"]
    layer = layout.document(child).layers[0]
    with pytest.raises(InUse, match="all, child|child, all"):
        layout.delete(layer)
    assert (read_index(layout), blob_digests(layout)) == before


def test_corrupt_document_is_deleted(layout):
    bad, other = push_image(layout, tag="bad"), push_image(layout, tag="worse")
    for image in (bad, other):
        layout.blob(image.digest).chmod(0o644)
        layout.blob(image.digest).write_bytes(b"?")
    layout.delete(bad)
    assert layout.tags() == ["worse"]


def test_deleted_subject_leaves_its_referrers(layout):
    subject = push_image(layout, tag="v1")
    sbom = push_artifact(layout, subject=subject, artifact_type=SBOM)
    layout.delete(subject)
    assert layout.exists(sbom)
    assert layout.tags() == []
    layout.gc(grace=0)
    assert blob_digests(layout) == content_of(layout, sbom)


TAGGING = """
    import sys
    from ocikit.store.layout.layout import Layout
    with Layout(sys.argv[1]) as layout:
        image = layout.resolve("start")
        for i in range(50):
            layout.tag(image, f"{sys.argv[2]}-{i}")
"""


def test_concurrent_tags_from_two_processes_are_all_kept(layout):
    push_image(layout, tag="start")
    processes = [start_python(TAGGING, layout.path, name) for name in ("a", "b")]
    while any(process.poll() is None for process in processes):
        assert "start" in Layout(layout.path, create=False).tags()  # readers never see a partial index
    for process in processes:
        wait_for(process)
    assert len(layout.tags()) == 101


def test_concurrent_tags_from_threads_are_all_kept(layout):
    image = push_image(layout, tag="start")
    errors = []

    def tagging(name):
        try:
            with Layout(layout.path) as own:
                for i in range(20):
                    own.tag(image, f"{name}-{i}")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=tagging, args=(f"t{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(layout.tags()) == 121


def test_processes_create_the_same_layout_concurrently(tmp_path):
    code = """
        import sys
        from ocikit.store.layout.layout import Layout
        from ocikit.spec.descriptor import Descriptor
        with Layout(sys.argv[1]) as layout:
            raw = sys.argv[2].encode()
            layout.push_bytes(Descriptor.of(raw, "text/plain"), raw, tag=sys.argv[2])
    """
    for round_ in range(5):
        processes = [start_python(code, tmp_path / str(round_), name) for name in ("a", "b", "c")]
        for process in processes:
            wait_for(process)
        assert Layout(tmp_path / str(round_), create=False).tags() == ["a", "b", "c"]


CRASHING = """
    import io, json, os, sys
    from ocikit.store.layout.layout import Layout
    from ocikit.spec import media_types as mt
    from ocikit.spec.descriptor import Descriptor
    from ocikit.spec.manifest import Manifest
    layout = Layout(sys.argv[1])
    print("ready", flush=True)
    i = 0
    while True:
        i += 1
        config, layer = json.dumps({"n": i, "r": os.urandom(8).hex()}).encode(), os.urandom(200_000)
        c, l = Descriptor.of(config, mt.OCI_CONFIG), Descriptor.of(layer, mt.OCI_LAYER)
        layout.push_bytes(c, config)
        layout.push_bytes(l, layer)
        m = Manifest(config=c, layers=[l])
        layout.push_bytes(m.descriptor, m.raw, tag=f"t{i % 7}")
        layout.tag(m.descriptor, "last")
        if i % 3 == 0:
            layout.untag(f"t{i % 7}")
        if i % 4 == 0:
            layout.gc(grace=0)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_layout_survives_sigkill_at_any_point(tmp_path):
    path = tmp_path / "layout"
    rng = random.Random(9)
    for _ in range(12):
        process = start_python(CRASHING, path)
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.25))
        process.kill()
        process.communicate()
        layout = Layout(path)
        result = layout.verify()
        assert result.ok
        assert result.missing == ()
        for tag in layout.tags():
            assert all(layout.exists(blob) for blob in layout.document(layout.resolve(tag)).blobs)
        layout.close()
    with Layout(path) as layout:  # the operating system has released locks and leases
        push_image(layout, tag="after")
        layout.gc(grace=0)
        assert layout.verify().ok
        assert "after" in layout.tags()
        assert len(list((path / ".ocikit" / "leases").iterdir())) == 1


FILLING = """
    import os, sys
    from ocikit.store.layout.layout import Layout
    from ocikit.errors import ContentError
    from ocikit.spec import media_types as mt
    from ocikit.spec.descriptor import Descriptor
    if sys.argv[2] == "limit":
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    with Layout(sys.argv[1]) as layout:
        small = b"small"
        layout.push_bytes(Descriptor.of(small, "text/plain"), small, tag="small")
        large = os.urandom(3 << 20)
        try:
            layout.push_bytes(Descriptor.of(large, "text/plain"), large, tag="large")
        except ContentError as error:
            print(error)
        else:
            sys.exit("no error was raised")
        assert not layout.exists(Descriptor.of(large, "text/plain"))
        assert layout.tags() == ["small"], layout.tags()
        assert layout.verify().ok
"""


def test_file_size_limit_raises_and_leaves_a_valid_layout(tmp_path):
    out = wait_for(start_python(FILLING, tmp_path / "layout", "limit"))
    assert "cannot write" in out
    assert "ulimit" in out


def test_full_disk_raises_and_leaves_a_valid_layout(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]
    can_mount = os.geteuid() == 0 and shutil.which("mount")
    if not can_mount or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root; the file size limit is tested instead")
    try:
        out = wait_for(start_python(FILLING, disk / "layout", "disk"))
        assert "No space left" in out
        assert "free some space" in out
        # Fill the disk, so that the index cannot grow
        layout = Layout(disk / "layout")
        image = Descriptor.of(b"small", "text/plain")
        with (disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(4096))
        with pytest.raises(ContentError, match="No space left"):
            for i in range(2000):
                layout.tag(image, f"tag-{i}")
        assert layout.verify().ok
        assert "small" in layout.tags()
        (disk / "filler").unlink()
        for part in layout.path.glob(".ocikit/partial/*"):
            part.unlink()
        layout.tag(image, "room-again")
        assert "room-again" in layout.tags()
        layout.close()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_unwritable_folder_raises_content_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ContentError, match="cannot write"):
        push_blob(Layout(tmp_path / "file" / "layout"), b"x")
    with pytest.raises(ContentError, match="cannot write"):
        push_blob(Layout(tmp_path / "file"), b"x")


def test_close_removes_lease_and_unfinished_transfers(layout):
    push_image(layout, tag="v1")
    assert len(list((layout.path / ".ocikit" / "leases").iterdir())) == 1
    layout.close()
    layout.close()
    assert list((layout.path / ".ocikit" / "leases").iterdir()) == []
    assert list((layout.path / ".ocikit" / "partial").iterdir()) == []


def test_interrupted_push_is_resumed(layout):
    content = random.Random(3).randbytes(6 << 20)
    blob = Descriptor.of(content, mt.OCTET_STREAM)

    class Breaking(io.BytesIO):
        def readinto(self, buffer):
            if self.tell() >= 4 << 20:
                raise ConnectionError("connection lost")
            return super().readinto(memoryview(buffer)[: 1 << 19])

    with pytest.raises(ConnectionError):
        layout.push(blob, Breaking(content))
    assert not layout.exists(blob)

    class Counting(io.BytesIO):
        read_bytes = 0

        def readinto(self, buffer):
            n = super().readinto(buffer)
            Counting.read_bytes += n
            return n

    layout.push(blob, Counting(content))
    assert layout.exists(blob)
    assert Counting.read_bytes <= 3 << 20
