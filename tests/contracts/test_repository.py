"""A repository of a real registry does what every store does."""

import io

import pytest
from ocikit.client.session import Session
from ocikit.errors import OcikitError, SizeMismatch, Unsupported, UploadInvalid
from ocikit.remote.auth.keychain import ANONYMOUS
from ocikit.spec import media_types as mt
from ocikit.spec.descriptor import Descriptor

from tests.contracts.store import StoreContract, push_image, tag_name, unique

#: What a registry can't do; everything else is as the contract has it.
CANNOT: dict[str, dict[str, bool]] = {
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
    # The registry finds it, or we do: it depends on which side is to blame
    refusal = OcikitError

    @pytest.fixture
    def store(self, registry, session):
        for flag, value in CANNOT[registry.kind].items():
            setattr(self, flag, value)
        return session.registry(registry.host).repository("t/contract", push=True)

    def test_a_manifest_named_by_sha512_is_kept_under_that_digest(self, store, registry):
        if not registry.kind.startswith("distribution"):
            super().test_a_manifest_named_by_sha512_is_kept_under_that_digest(store)
            return
        # distribution hashes manifests with sha256, whatever the digest in the URL says
        with pytest.raises(UploadInvalid, match="DIGEST_INVALID"):
            super().test_a_manifest_named_by_sha512_is_kept_under_that_digest(store)

    def test_a_tag_that_can_not_be_deleted_alone_stays_and_says_so(self, store, registry):
        if registry.kind != "distribution2":
            pytest.skip("this registry deletes tags")
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
    def test_content_of_another_length_is_refused_at_once(self, store, change, chunk_size):
        # It used to hang: the registry waited for the bytes that the length had promised
        content = unique()
        descriptor = Descriptor.of(content, mt.OCTET_STREAM)
        if chunk_size and len(change(content)) > len(content):
            pytest.skip("the last chunk ends where it should; the rest is never read")
        with pytest.raises(SizeMismatch):
            store.push(descriptor, io.BytesIO(change(content)), chunk_size=chunk_size)
        assert not store.exists(descriptor)
