"""The contract of stores for repositories of real registries."""

import io

import pytest
from ocikit.client.session import Session
from ocikit.errors import OcikitError, SizeMismatch, Unsupported, UploadInvalid
from ocikit.remote.auth.keychain import ANONYMOUS
from ocikit.spec import media_types as mt
from ocikit.spec.descriptor import Descriptor

from tests.contracts.store import StoreContract, push_image, tag_name, unique

#: Features that a registry does not support.
UNSUPPORTED: dict[str, dict[str, bool]] = {
    "ocikit": {},
    "distribution2": {"can_untag": False},
    "distribution3": {},
    "olareg": {},
    "zot": {},
}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    with Session(credentials=ANONYMOUS, cache=tmp_path_factory.mktemp("cache"), progress=False) as session:
        yield session


class TestRepository(StoreContract):
    # Detected by the registry or by the client
    digest_error = OcikitError

    @pytest.fixture
    def store(self, registry, session):
        for flag, value in UNSUPPORTED[registry.kind].items():
            setattr(self, flag, value)
        return session.registry(registry.host).repository("t/contract", push=True)

    def test_sha512_manifest_is_stored_by_its_digest(self, store, registry):
        if not registry.kind.startswith("distribution"):
            super().test_sha512_manifest_is_stored_by_its_digest(store)
            return
        # distribution hashes manifests with sha256 and ignores the algorithm in the URL
        with pytest.raises(UploadInvalid, match="DIGEST_INVALID"):
            super().test_sha512_manifest_is_stored_by_its_digest(store)

    def test_unsupported_untag_raises_and_keeps_tag(self, store, registry):
        if registry.kind != "distribution2":
            pytest.skip("this registry supports the deletion of tags")
        first, second = tag_name(), tag_name()
        pushed = push_image(store, tag=first)
        store.tag(pushed, second)
        with pytest.raises(Unsupported, match=f"tag '{first}' alone"):
            store.untag(first)
        assert store.resolve(first).digest == store.resolve(second).digest == pushed.digest

    @pytest.mark.parametrize("chunk_size", [None, 16], ids=["whole", "chunks"])
    @pytest.mark.parametrize(
        "change", [lambda c: c[:-1], lambda c: b"", lambda c: c * 2], ids=["short", "none", "long"]
    )
    @pytest.mark.timeout(50)
    def test_wrong_length_is_rejected_without_waiting(self, store, change, chunk_size):
        # Regression: the registry waited for the missing bytes of the announced length
        content = unique()
        descriptor = Descriptor.of(content, mt.OCTET_STREAM)
        if chunk_size and len(change(content)) > len(content):
            pytest.skip("the last chunk has the expected end; the rest is never read")
        with pytest.raises(SizeMismatch):
            store.push(descriptor, io.BytesIO(change(content)), chunk_size=chunk_size)
        assert not store.exists(descriptor)
