"""The contract of metadata."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import pytest

from ocikit.server.storage.base import (
    BlobInUse,
    ManifestRow,
    Metadata,
    MissingChildren,
    PreconditionFailed,
    QuotaExceeded,
)
from ocikit.server.testing.bodies import RecordingBlobStore, manifest_row, moment, random_digest
from ocikit.spec.digest import Digest


class MetadataContract:
    """The contract of `Metadata`.

    Override the fixture `metadata` to return empty metadata with a grace period of 0 seconds, so that each request renews
    timestamps at once.

    >>> import pytest
    >>> from ocikit.server import memory_storage
    >>> from ocikit.server.testing import MetadataContract
    >>> class TestMyMetadata(MetadataContract):
    ...     @pytest.fixture
    ...     def metadata(self):
    ...         return memory_storage(grace=0).metadata
    """

    #: Whether content is deleted by its digest, while no row can be inserted. Otherwise objects have keys that are written once,
    #: and a sweep deletes them later.
    deletes_by_digest = True

    @pytest.fixture
    def metadata(self, tmp_path: Path) -> Metadata:
        raise NotImplementedError

    # Repositories

    def test_repository_exists_after_first_push(self, metadata: Metadata) -> None:
        assert not metadata.has_repository("a")
        metadata.add_blob("a", random_digest(), 1)
        metadata.put_manifest("b", manifest_row())
        assert metadata.has_repository("a")
        assert metadata.has_repository("b")
        assert not metadata.has_repository("c")
        assert metadata.repositories(limit=10) == ["a", "b"]

    def test_repositories_are_sorted_by_bytes_and_paged(self, metadata: Metadata) -> None:
        names = ["a", "a-b", "a.b", "a/b", "a/b/c", "a0", "ab", "b", "b_c"]
        for name in reversed(names):
            metadata.add_blob(name, random_digest(), 1)
        assert metadata.repositories(limit=100) == sorted(names)
        assert metadata.repositories(limit=0) == []
        result, last = [], ""
        while page := metadata.repositories(last=last, limit=2):
            assert len(page) <= 2
            result += page
            last = page[-1]
        assert result == sorted(names)
        assert metadata.repositories(last="a0000", limit=2) == ["ab", "b"]

    # Blobs

    def test_blob_belongs_to_one_repository(self, metadata: Metadata) -> None:
        digest = random_digest()
        metadata.add_blob("a", digest, 123)
        assert metadata.blob_size("a", digest) == 123
        assert metadata.blob_size("b", digest) is None
        assert metadata.blob_size("a", random_digest()) is None

    def test_adding_blob_twice_counts_once(self, metadata: Metadata) -> None:
        digest = random_digest()
        metadata.add_blob("a", digest, 100)
        metadata.add_blob("a", digest, 100)
        assert metadata.used_bytes("a") == 100
        assert list(metadata.repositories_with(digest)) == ["a"]

    def test_used_bytes_sums_blob_sizes(self, metadata: Metadata) -> None:
        assert metadata.used_bytes("a") == 0
        blobs = [random_digest() for _ in range(5)]
        for digest in blobs:
            metadata.add_blob("a", digest, 1 << 40)
        metadata.add_blob("b", random_digest(), 7)
        assert (metadata.used_bytes("a"), metadata.used_bytes("b")) == (5 << 40, 7)
        metadata.remove_blob("a", blobs[0])
        assert metadata.used_bytes("a") == 4 << 40

    def test_manifest_counts_in_used_bytes_and_quota(self, metadata: Metadata) -> None:
        row, other = manifest_row(), manifest_row()
        metadata.add_blob("a", random_digest(), 7)
        metadata.put_manifest("a", row, quota=7 + row.size)
        assert metadata.used_bytes("a") == 7 + row.size
        with pytest.raises(QuotaExceeded):
            metadata.put_manifest("a", other, ["v1"], quota=7 + row.size)
        assert metadata.manifest("a", "v1") is None
        metadata.put_manifest("a", row, ["v1"], quota=7 + row.size)
        with pytest.raises(QuotaExceeded):
            metadata.add_blob("a", random_digest(), 1, quota=7 + row.size)
        metadata.put_manifest("b", other, quota=other.size)
        metadata.delete_manifest("a", row.digest)
        assert metadata.used_bytes("a") == 7

    def test_blob_above_quota_is_rejected(self, metadata: Metadata) -> None:
        stored, rejected = random_digest(), random_digest()
        metadata.add_blob("a", stored, 60, quota=100)
        with pytest.raises(QuotaExceeded):
            metadata.add_blob("a", rejected, 41, quota=100)
        assert metadata.blob_size("a", rejected) is None
        metadata.add_blob("a", stored, 60, quota=100)
        metadata.add_blob("a", random_digest(), 40, quota=100)
        metadata.add_blob("b", rejected, 100, quota=100)
        assert metadata.used_bytes("a") == 100

    def test_quota_holds_for_concurrent_pushes(self, metadata: Metadata) -> None:
        def push(_: int) -> bool:
            try:
                metadata.add_blob("a", random_digest(), 30, quota=100)
            except QuotaExceeded:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(push, range(16))) == 3
        assert metadata.used_bytes("a") == 90

    def test_repositories_with_blob_are_listed(self, metadata: Metadata) -> None:
        digest = random_digest()
        names = sorted(f"r{n}" for n in range(250))
        for name in names:
            metadata.add_blob(name, digest, 1)
        metadata.add_blob("other", random_digest(), 1)
        assert sorted(metadata.repositories_with(digest)) == names
        assert list(metadata.repositories_with(random_digest())) == []

    def test_removed_blob_stays_in_other_repositories(self, metadata: Metadata) -> None:
        digest = random_digest()
        metadata.add_blob("a", digest, 1)
        metadata.add_blob("b", digest, 1)
        assert metadata.remove_blob("a", digest)
        assert not metadata.remove_blob("a", digest)
        assert metadata.blob_size("a", digest) is None
        assert metadata.blob_size("b", digest) == 1

    def test_blob_in_use_is_removed_only_with_force(self, metadata: Metadata) -> None:
        digest = random_digest()
        for name in ("a", "b"):
            metadata.add_blob(name, digest, 1)
        metadata.put_manifest("a", manifest_row(children=(digest,)), ["v1"])
        with pytest.raises(BlobInUse):
            metadata.remove_blob("a", digest)
        assert metadata.blob_size("a", digest) == 1
        assert metadata.remove_blob("b", digest)
        assert metadata.remove_blob("a", digest, force=True)
        assert metadata.blob_size("a", digest) is None

    # Manifests and tags

    def test_manifest_is_found_by_tag_and_digest(self, metadata: Metadata) -> None:
        subject = random_digest()
        row = manifest_row(123, subject=subject, artifact_type="text/x", referrer='{"a":1}')
        metadata.put_manifest("a", row, ["v1", "V1"])
        for reference in ("v1", "V1", row.digest):
            result = metadata.manifest("a", reference)
            assert result == row
        assert metadata.manifest("b", "v1") is None
        assert metadata.manifest("a", "v2") is None
        assert metadata.manifest("a", random_digest()) is None

    def test_manifest_without_subject_has_none(self, metadata: Metadata) -> None:
        row = manifest_row()
        metadata.put_manifest("a", row)
        result = metadata.manifest("a", row.digest)
        assert result is not None
        assert (result.subject, result.artifact_type, result.referrer) == (None, None, "")

    def test_manifest_can_be_put_again(self, metadata: Metadata) -> None:
        child = random_digest()
        metadata.add_blob("a", child, 1)
        row = manifest_row(children=(child,))
        metadata.put_manifest("a", row, ["v1"])
        metadata.put_manifest("a", row, ["v2"], require_children=True)
        assert metadata.tags("a", limit=10) == ["v1", "v2"]

    def test_tag_moves_to_latest_manifest(self, metadata: Metadata) -> None:
        old, new = manifest_row(), manifest_row()
        metadata.put_manifest("a", old, ["v1", "old"])
        metadata.put_manifest("a", new, ["v1"])
        assert metadata.manifest("a", "v1") == new
        assert metadata.manifest("a", "old") == metadata.manifest("a", old.digest) == old

    def test_manifest_can_reference_same_child_twice(self, metadata: Metadata) -> None:
        child = random_digest()
        metadata.add_blob("a", child, 1)
        metadata.put_manifest("a", manifest_row(children=(child, child)), ["v1"], require_children=True)

    def test_missing_children_are_rejected_if_required(self, metadata: Metadata) -> None:
        blob, absent, elsewhere = random_digest(), random_digest(), random_digest()
        child = manifest_row()
        metadata.add_blob("a", blob, 1)
        metadata.add_blob("b", elsewhere, 1)
        metadata.put_manifest("a", child)
        row = manifest_row(children=(blob, child.digest, absent, elsewhere))
        assert metadata.sizes("a", row.children) == {blob: 1, child.digest: child.size}
        with pytest.raises(MissingChildren) as caught:
            metadata.put_manifest("a", row, ["v1"], require_children=True)
        assert caught.value.digests == {absent, elsewhere}
        assert metadata.manifest("a", row.digest) is None
        assert metadata.manifest("a", "v1") is None
        metadata.put_manifest("a", row, ["v1"])
        assert metadata.manifest("a", "v1") is not None

    def test_sizes_accepts_thousands_of_digests(self, metadata: Metadata) -> None:
        present, absent = [random_digest() for _ in range(3)], [random_digest() for _ in range(2500)]
        for digest in present:
            metadata.add_blob("a", digest, 1)
        assert metadata.sizes("a", [*absent[:1000], *present, *absent[1000:]]).keys() == set(present)
        assert metadata.sizes("a", []) == {}

    def test_tag_is_set_only_if_precondition_holds(self, metadata: Metadata) -> None:
        first, second, third = manifest_row(), manifest_row(), manifest_row()
        metadata.put_manifest("a", first, ["v1"], if_none_match=True)
        with pytest.raises(PreconditionFailed):
            metadata.put_manifest("a", second, ["v1"], if_none_match=True)
        with pytest.raises(PreconditionFailed):
            metadata.put_manifest("a", second, ["v2", "v1"], if_none_match=True)
        with pytest.raises(PreconditionFailed):
            metadata.put_manifest("a", second, ["v1"], if_match=[third.digest])
        with pytest.raises(PreconditionFailed):
            metadata.put_manifest("a", second, ["v1"], if_match=[])
        with pytest.raises(PreconditionFailed):
            metadata.put_manifest("a", second, ["v2"], if_match=[first.digest])
        assert metadata.manifest("a", second.digest) is None
        assert metadata.tags("a", limit=10) == ["v1"]
        metadata.put_manifest("a", second, ["v1"], if_match=[third.digest, first.digest])
        assert metadata.manifest("a", "v1") == second

    def test_precondition_without_tags_applies_to_manifest(self, metadata: Metadata) -> None:
        row = manifest_row()
        metadata.put_manifest("a", row, if_none_match=True)
        with pytest.raises(PreconditionFailed):
            metadata.put_manifest("a", row, if_none_match=True)
        with pytest.raises(PreconditionFailed):
            metadata.put_manifest("a", manifest_row(), if_match=[row.digest])
        metadata.put_manifest("a", row, if_match=[row.digest])

    def test_one_of_many_equal_preconditions_succeeds(self, metadata: Metadata) -> None:
        first = manifest_row()
        metadata.put_manifest("a", first, ["v1"])

        def put(row: ManifestRow) -> bool:
            try:
                metadata.put_manifest("a", row, ["v1"], if_match=[first.digest])
            except PreconditionFailed:
                return False
            return True

        rows = [manifest_row() for _ in range(16)]
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(put, rows))
        assert sum(won) == 1
        assert metadata.manifest("a", "v1") == rows[won.index(True)]

    def test_deleted_manifest_loses_its_tags(self, metadata: Metadata) -> None:
        blob = random_digest()
        metadata.add_blob("a", blob, 1)
        row, other = manifest_row(children=(blob,)), manifest_row()
        metadata.put_manifest("a", row, ["v1", "v2"])
        metadata.put_manifest("a", other, ["v3"])
        metadata.put_manifest("b", row, ["v1"])
        assert metadata.delete_manifest("a", row.digest)
        assert not metadata.delete_manifest("a", row.digest)
        assert metadata.manifest("a", row.digest) is None
        assert metadata.tags("a", limit=10) == ["v3"]
        assert metadata.manifest("b", "v1") == metadata.manifest("b", row.digest) is not None
        assert metadata.remove_blob("a", blob)

    def test_deleted_tag_keeps_its_manifest(self, metadata: Metadata) -> None:
        row = manifest_row()
        metadata.put_manifest("a", row, ["v1", "v2"])
        assert metadata.delete_tag("a", "v1")
        assert not metadata.delete_tag("a", "v1")
        assert not metadata.delete_tag("b", "v2")
        assert metadata.tags("a", limit=10) == ["v2"]
        assert metadata.manifest("a", row.digest) == row

    def test_tags_are_sorted_by_bytes_and_paged(self, metadata: Metadata) -> None:
        tags = ["A", "Z", "_", "a", "a-1", "a.1", "a_1", "aA", "aa", "b", "v1.10", "v1.2", "v1.9"]
        metadata.put_manifest("a", manifest_row(), list(reversed(tags)))
        metadata.put_manifest("b", manifest_row(), ["other"])
        assert metadata.tags("a", limit=100) == sorted(tags)
        assert metadata.tags("a", limit=0) == []
        assert metadata.tags("a", last="a_0", limit=2) == ["a_1", "aa"]
        assert metadata.tags("a", last="zzz", limit=2) == []
        assert metadata.tags("c", limit=2) == []

    def test_concurrent_tags_are_all_stored(self, metadata: Metadata) -> None:
        tags = [f"t{n:03}" for n in range(64)]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda tag: metadata.put_manifest("a", manifest_row(), [tag]), tags))
        assert metadata.tags("a", limit=1000) == tags

    def test_referrers_are_sorted_filtered_and_paged(self, metadata: Metadata) -> None:
        subject = random_digest()
        rows = [manifest_row(subject=subject, artifact_type=f"text/{n % 2}", referrer="{}") for n in range(10)]
        for row in rows:
            metadata.put_manifest("a", row)
        metadata.put_manifest("a", manifest_row(subject=random_digest(), artifact_type="text/0", referrer="{}"))
        metadata.put_manifest("b", manifest_row(subject=subject, artifact_type="text/0", referrer="{}"))
        expected = sorted(rows, key=lambda row: row.digest)
        assert metadata.referrers("a", subject, limit=100) == expected
        half = [row for row in expected if row.artifact_type == "text/1"]
        assert metadata.referrers("a", subject, artifact_type="text/1", limit=100) == half
        assert metadata.referrers("a", subject, last=expected[3].digest, limit=2) == expected[4:6]
        assert metadata.referrers("a", subject, artifact_type="text/1", last=half[1].digest, limit=2) == half[2:4]
        assert metadata.referrers("a", random_digest(), limit=100) == []
        metadata.delete_manifest("a", expected[0].digest)
        assert metadata.referrers("a", subject, limit=1) == expected[1:2]

    def test_references_are_listed_by_digest(self, metadata: Metadata) -> None:
        blob, row = random_digest(), manifest_row(9)
        metadata.add_blob("a", blob, 5)
        metadata.add_blob("b", blob, 5)
        metadata.put_manifest("b", row)
        metadata.register_orphans([random_digest()])
        result = list(metadata.iter_references())
        assert sorted(result) == sorted([(blob, "a", 5), (blob, "b", 5), (row.digest, "b", 9)])
        assert [digest for digest, _, _ in result] == sorted(digest for digest, _, _ in result)

    # Garbage collection

    def unreferenced_blobs(self, metadata: Metadata, before: float) -> set[tuple[str, Digest]]:
        """Return repository and digest of unreferenced blobs."""
        return {(name, digest) for name, digest, _ in metadata.unreferenced_blobs(before)}

    def unreferenced_content(self, metadata: Metadata, before: float) -> set[Digest]:
        """Return the digests of unreferenced content."""
        return {digest for digest, _ in metadata.unreferenced_content(before)}

    def released_content(self, metadata: Metadata) -> Digest:
        """Return the digest of content that a repository had."""
        digest = random_digest()
        metadata.add_blob("released", digest, 3)
        metadata.remove_blob("released", digest)
        return digest

    def test_old_blob_without_manifest_is_unreferenced(self, metadata: Metadata) -> None:
        referenced, unused = random_digest(), random_digest()
        before = moment()
        for digest in (referenced, unused):
            metadata.add_blob("a", digest, 3)
        metadata.add_blob("b", referenced, 3)
        metadata.put_manifest("a", manifest_row(children=(referenced,)))
        late = moment()
        assert self.unreferenced_blobs(metadata, before) == set()
        assert sorted(metadata.unreferenced_blobs(late)) == sorted([("a", unused, 3), ("b", referenced, 3)])

    def test_thousands_of_blobs_can_be_deleted_while_listed(self, metadata: Metadata) -> None:
        digests = {random_digest() for _ in range(1050)}
        for digest in digests:
            metadata.add_blob("a", digest, 1)
        late = moment()
        assert {
            digest
            for name, digest, _ in metadata.unreferenced_blobs(late)
            if metadata.remove_blob_if_unused(name, digest, late)
        } == digests
        late, store = moment(), RecordingBlobStore()
        assert {
            digest
            for digest, _ in metadata.unreferenced_content(late)
            if metadata.delete_if_unreferenced(digest, late, store)
        } == digests
        assert set(store.deleted) == (digests if self.deletes_by_digest else set())
        assert self.unreferenced_content(metadata, late) == set()

    @pytest.mark.parametrize("renew", ["push", "lookup", "reference"])
    def test_renewed_blob_is_not_removed(self, metadata: Metadata, renew: str) -> None:
        digest = random_digest()
        metadata.add_blob("a", digest, 3)
        late = moment()
        assert self.unreferenced_blobs(metadata, late) == {("a", digest)}
        if renew == "push":
            metadata.add_blob("a", digest, 3)
        elif renew == "lookup":
            metadata.blob_size("a", digest)
        else:
            metadata.put_manifest("a", manifest_row(children=(digest,)))
        assert self.unreferenced_blobs(metadata, late) == set()
        assert not metadata.remove_blob_if_unused("a", digest, late)
        assert metadata.blob_size("a", digest) == 3

    def test_children_are_released_when_manifest_is_deleted(self, metadata: Metadata) -> None:
        blob, child = random_digest(), manifest_row()
        metadata.add_blob("a", blob, 3)
        metadata.put_manifest("a", child)
        row = manifest_row(children=(blob, child.digest))
        metadata.put_manifest("a", row, ["v1"])
        before = moment()
        metadata.delete_manifest("a", row.digest)
        assert not self.unreferenced_blobs(metadata, before)
        assert not self.unreferenced_content(metadata, before)
        assert list(metadata.untagged_manifests(before)) == []
        late = moment()
        assert self.unreferenced_blobs(metadata, late) == {("a", blob)}
        assert self.unreferenced_content(metadata, late) == {row.digest}
        assert [digest for _, digest, _ in metadata.untagged_manifests(late)] == [child.digest]

    def test_content_without_repository_is_unreferenced_when_old(self, metadata: Metadata) -> None:
        blob, row = random_digest(), manifest_row()
        metadata.add_blob("a", blob, 3)
        metadata.add_blob("b", blob, 3)
        metadata.put_manifest("a", row)
        metadata.remove_blob("a", blob)
        assert self.unreferenced_content(metadata, moment()) == set()
        before = moment()
        metadata.remove_blob("b", blob)
        metadata.delete_manifest("a", row.digest)
        assert self.unreferenced_content(metadata, before) == set()
        assert sorted(metadata.unreferenced_content(moment())) == sorted([(blob, 3), (row.digest, row.size)])

    def test_orphans_are_registered_with_current_time(self, metadata: Metadata) -> None:
        if not self.deletes_by_digest:
            pytest.skip("objects without a row are found by their keys")
        orphans, known = [random_digest() for _ in range(1200)], random_digest()
        metadata.add_blob("a", known, 3)
        before = moment()
        assert metadata.register_orphans([*orphans, known]) == 1200
        assert metadata.register_orphans([*orphans, known]) == 0
        assert self.unreferenced_content(metadata, before) == set()
        assert self.unreferenced_content(metadata, moment()) == set(orphans)
        assert metadata.blob_size("a", known) == 3

    @pytest.mark.parametrize("renew", ["protect", "add_blob", "put_manifest"])
    def test_renewed_content_is_not_deleted(self, metadata: Metadata, renew: str) -> None:
        row = attrs.evolve(manifest_row(), digest=self.released_content(metadata))
        late, store = moment(), RecordingBlobStore()
        assert self.unreferenced_content(metadata, late) == {row.digest}
        if renew == "protect":
            metadata.protect_from_gc(row.digest)
        elif renew == "add_blob":
            metadata.add_blob("a", row.digest, 3)
        else:
            metadata.put_manifest("a", row)
        assert self.unreferenced_content(metadata, late) == set()
        assert not metadata.delete_if_unreferenced(row.digest, late, store)
        assert store.deleted == []
        assert self.unreferenced_content(metadata, moment()) == ({row.digest} if renew == "protect" else set())

    def test_protecting_missing_content_does_nothing(self, metadata: Metadata) -> None:
        metadata.protect_from_gc(random_digest())
        assert self.unreferenced_content(metadata, moment()) == set()

    def test_content_is_deleted_once(self, metadata: Metadata) -> None:
        digest, store = self.released_content(metadata), RecordingBlobStore()
        late = moment()
        with ThreadPoolExecutor(4) as pool:
            deleted = list(pool.map(lambda _: metadata.delete_if_unreferenced(digest, late, store), range(8)))
        assert sum(deleted) == 1
        assert store.deleted == ([digest] if self.deletes_by_digest else [])

    def test_failed_deletion_keeps_row(self, metadata: Metadata) -> None:
        if not self.deletes_by_digest:
            pytest.skip("the sweep deletes objects")
        digest = self.released_content(metadata)

        def fail() -> None:
            raise OSError("the disk failed")

        late = moment()
        with pytest.raises(OSError, match="the disk failed"):
            metadata.delete_if_unreferenced(digest, late, RecordingBlobStore(fail))
        assert self.unreferenced_content(metadata, late) == {digest}

    def test_inserts_wait_for_deletion_and_exclusive_work(self, metadata: Metadata) -> None:
        if not self.deletes_by_digest:
            pytest.skip("keys are written once, so that nothing waits")
        digest = self.released_content(metadata)
        events: list[str] = []

        def insert() -> None:
            metadata.add_blob("a", digest, 3)
            events.append("inserted")

        def delete() -> str:
            waiting.append(threading.Thread(target=insert))
            waiting[-1].start()
            waiting[-1].join(0.05)
            events.append("deleted")
            return "result"

        waiting: list[threading.Thread] = []
        assert metadata.delete_if_unreferenced(digest, moment(), RecordingBlobStore(delete))
        waiting[0].join()
        assert events == ["deleted", "inserted"]
        assert metadata.exclusive(delete) == "result"
        waiting[1].join()
        assert events == ["deleted", "inserted"] * 2
        assert metadata.blob_size("a", digest) == 3

    def test_manifests_without_path_from_tag_are_untagged(self, metadata: Metadata) -> None:
        image, child = manifest_row(11), manifest_row()
        metadata.put_manifest("a", image)
        metadata.put_manifest("a", child)
        inner = manifest_row(children=(child.digest,))
        metadata.put_manifest("a", inner)
        outer = manifest_row(children=(inner.digest,))
        metadata.put_manifest("a", outer, ["v1"])
        signature = manifest_row(subject=child.digest, referrer="{}")
        metadata.put_manifest("a", signature)
        second = manifest_row(subject=signature.digest, referrer="{}")
        metadata.put_manifest("a", second)
        unreachable = manifest_row(subject=image.digest, referrer="{}")
        metadata.put_manifest("a", unreachable)
        metadata.put_manifest("b", image, ["v1"])
        late = moment()
        expected = sorted([("a", image.digest, 11), ("a", unreachable.digest, unreachable.size)])
        assert sorted(metadata.untagged_manifests(late)) == expected
        assert sorted(metadata.delete_untagged("a", late)) == sorted((digest, size) for _, digest, size in expected)
        assert list(metadata.untagged_manifests(late)) == []
        assert metadata.manifest("a", image.digest) is None
        for row in (child, inner, outer, signature, second):
            assert metadata.manifest("a", row.digest) is not None
        assert metadata.manifest("b", image.digest) is not None

    def test_recent_index_keeps_its_children(self, metadata: Metadata) -> None:
        child = manifest_row()
        metadata.put_manifest("a", child)
        late = moment()
        index = manifest_row(children=(child.digest,))
        metadata.put_manifest("a", index)
        assert list(metadata.untagged_manifests(late)) == []
        assert metadata.delete_untagged("a", late) == []

    @pytest.mark.parametrize("renew", ["push", "lookup", "untag", "move"])
    def test_renewed_manifest_is_not_untagged_yet(self, metadata: Metadata, renew: str) -> None:
        row = manifest_row()
        metadata.put_manifest("a", row, ["v1"] if renew in {"untag", "move"} else [])
        late = moment()
        if renew == "push":
            metadata.put_manifest("a", row)
        elif renew == "lookup":
            metadata.manifest("a", row.digest)
        elif renew == "untag":
            metadata.delete_tag("a", "v1")
        else:
            metadata.put_manifest("a", manifest_row(), ["v1"])
        assert list(metadata.untagged_manifests(late)) == []
        assert [digest for _, digest, _ in metadata.untagged_manifests(moment())] == [row.digest]

    def test_children_of_deleted_untagged_manifest_stay(self, metadata: Metadata) -> None:
        blob = random_digest()
        metadata.add_blob("a", blob, 3)
        row = manifest_row(children=(blob,))
        metadata.put_manifest("a", row)
        late = moment()
        metadata.delete_untagged("a", late)
        assert not self.unreferenced_blobs(metadata, late)
        assert not self.unreferenced_content(metadata, late)
        later = moment()
        assert self.unreferenced_blobs(metadata, later) == {("a", blob)}
        assert self.unreferenced_content(metadata, later) == {row.digest}

    def test_failed_change_does_not_fail_concurrent_changes(self, metadata: Metadata) -> None:
        """Concurrent writers may share a transaction, and each gets its own result."""
        existing = manifest_row()
        metadata.put_manifest("a", existing, ["taken"])

        def put(n: int) -> str:
            try:
                metadata.put_manifest("a", manifest_row(), [f"t{n:02}" if n % 2 else "taken"], if_none_match=True)
            except PreconditionFailed:
                return "conflict"
            return "put"

        with ThreadPoolExecutor(16) as pool:
            results = list(pool.map(put, range(32)))
        assert results == ["conflict", "put"] * 16
        assert metadata.tags("a", limit=100) == [*(f"t{n:02}" for n in range(1, 32, 2)), "taken"]
        assert metadata.manifest("a", "taken") == existing
