"""Flows of client requests with their required responses. A flow returns after every response was correct."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from attrs import define

from tests.conformance.content import Document, Kind
from tests.conformance.wire import ACCEPT, Answer, Wire

#: Bytes. Registries may require larger chunks with OCI-Chunk-Min-Length, never smaller ones.
CHUNK = 1024

OCTETS = {"Content-Type": "application/octet-stream"}

_counter = itertools.count(1)


def new_name(slug: str) -> str:
    """Return an unused repository."""
    return f"laboratory/{slug}-{next(_counter)}"


@define(eq=False)
class Server:
    """A registry under test."""

    wire: Wire
    #: "dev", "stable" or "read-only"
    mode: str
    #: Whether tokens grant access. A mount without `from` uses only repositories that the token names.
    tokens: bool = False

    @property
    def dev(self) -> bool:
        return self.mode != "stable"

    def digest_header(self, answer: Answer, digest: str) -> None:
        """Check that Docker-Content-Digest is the requested digest. Released specifications make it optional."""
        found = answer.headers.get_all("Docker-Content-Digest") or []
        assert found == [digest] or (not found and not self.dev), f"{answer.method} {answer.url}: {found}"


# Blobs


def begin(server: Server, repo: str, **query: str) -> Answer:
    """Push through an upload session. spec.md#post-then-put"""
    return server.wire.post(f"/v2/{repo}/blobs/uploads/", query=query, body=b"").must(202)


def post(server: Server, repo: str, digest: str, content: bytes) -> Answer:
    """Push in one request. A 202 with a session is allowed, but incomplete."""
    return server.wire.post(f"/v2/{repo}/blobs/uploads/", query={"digest": digest}, headers=OCTETS, body=content)


def post_put(server: Server, repo: str, digest: str, content: bytes) -> Answer:
    upload = begin(server, repo).location
    return server.wire.put(upload, query={"digest": digest}, headers=OCTETS, body=content)


def stream(server: Server, repo: str, digest: str, content: bytes) -> Answer:
    """Push with a PATCH without length, then a PUT without a body."""
    upload = begin(server, repo).location
    upload = server.wire.patch(upload, headers=OCTETS, body=content, chunked=True).must(202).location
    return server.wire.put(upload, query={"digest": digest}, headers=OCTETS, body=b"")


def chunks(server: Server, repo: str, digest: str, content: bytes) -> Answer:
    return _chunked(server, repo, digest, content)


def chunks_and_last(server: Server, repo: str, digest: str, content: bytes) -> Answer:
    """Push in chunks; the PUT carries the last chunk."""
    return _chunked(server, repo, digest, content, last=True)


def strays(server: Server, repo: str, digest: str, content: bytes) -> Answer:
    """Push in chunks, each after a chunk out of order."""
    return _chunked(server, repo, digest, content, stray=True)


def strays_and_last(server: Server, repo: str, digest: str, content: bytes) -> Answer:
    """Push in chunks; a PUT out of order comes before the last one. The session survives it."""
    return _chunked(server, repo, digest, content, last=True, stray=True)


Way = Callable[[Server, str, str, bytes], Answer]

#: Every way to push a blob.
WAYS: tuple[Way, ...] = (
    post, post_put, stream, chunks, chunks_and_last, strays, strays_and_last,
)  # fmt: skip


def _chunked(
    server: Server, repo: str, digest: str, content: bytes, *, last: bool = False, stray: bool = False
) -> Answer:
    """Push in chunks. spec.md#pushing-a-blob-in-chunks"""
    answer = begin(server, repo)
    size = max(len(content) // 3 + 1, CHUNK, int(answer.headers.get("OCI-Chunk-Min-Length", "0")))
    upload, pieces = answer.location, list(_spans(len(content), size))
    for position, (start, end) in enumerate(pieces):
        final = last and position == len(pieces) - 1
        if stray:
            upload = _stray(server, upload, digest, content, start, size, final)
        send = server.wire.put if final else server.wire.patch
        query = {"digest": digest} if final else None
        answer = send(upload, query=query, headers=_span(start, end), body=content[start:end])
        if final:
            return answer
        assert answer.must(202).header("Range") == f"0-{end - 1}"
        upload = answer.location
    return server.wire.put(upload, query={"digest": digest}, headers=OCTETS, body=b"")


def _stray(
    server: Server, upload: str, digest: str, content: bytes, start: int, size: int, final: bool
) -> str:  # fmt: skip
    """Send a chunk out of order, then read the session's offset. spec.md#pushing-a-blob-in-chunks"""
    ahead = start + size if start + size < len(content) else 0
    if ahead == start:
        return upload  # a single chunk is always in order
    end = min(ahead + size, len(content))
    send, query = (server.wire.put, {"digest": digest}) if final else (server.wire.patch, None)
    refused = send(upload, query=query, headers=_span(ahead, end), body=content[ahead:end]).must(416)
    refused.must_explain()
    return progress(server, refused.location, start).location


def progress(server: Server, upload: str, size: int) -> Answer:
    """Check the status of an upload. Clients accept any number for zero bytes. spec.md#getting-the-status-of-an-upload"""
    answer = server.wire.get(upload).must(204)
    first, _, number = answer.header("Range").partition("-")
    assert first == "0" and number.isdigit() and (not size or int(number) == size - 1), answer.headers
    assert answer.location
    return answer


def _span(start: int, end: int) -> dict[str, str]:
    return OCTETS | {"Content-Range": f"{start}-{end - 1}"}


def _spans(length: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, size):
        yield start, min(start + size, length)


def created(server: Server, repo: str, answer: Answer, digest: str, content: bytes) -> None:
    """Check the response to a completed blob, and its Location."""
    answer.must(201)
    server.digest_header(answer, digest)
    assert server.wire.get(answer.location).must(200).body == content
    has_blob(server, repo, digest, content)


def has_blob(server: Server, repo: str, digest: str, content: bytes) -> None:
    """Check HEAD and GET with the exact size. spec.md#pulling-blobs, #checking-if-content-exists-in-the-registry"""
    for send in (server.wire.head, server.wire.get):
        answer = send(f"/v2/{repo}/blobs/{digest}").must(200)
        assert answer.header("Content-Length") == str(len(content))
        server.digest_header(answer, digest)
        assert answer.body == (b"" if answer.method == "HEAD" else content)


def has_no_blob(server: Server, repo: str, digest: str) -> None:
    server.wire.head(f"/v2/{repo}/blobs/{digest}").must(404).must_explain()
    server.wire.get(f"/v2/{repo}/blobs/{digest}").must(404).must_explain()


def delete_blob(server: Server, repo: str, digest: str) -> None:
    """Delete the blob and check that it is missing. spec.md#deleting-blobs"""
    server.wire.delete(f"/v2/{repo}/blobs/{digest}").must(202)
    has_no_blob(server, repo, digest)


# Manifests


def put(server: Server, repo: str, reference: str, document: Document, *, chunked: bool = True, **query: Any) -> Answer:
    """Push a manifest, without its length if it is long."""
    headers = {"Content-Type": document.media_type}
    path = f"/v2/{repo}/manifests/{reference}"
    return server.wire.put(path, query=query, headers=headers, body=document.body, chunked=chunked)


def stored(server: Server, answer: Answer, document: Document) -> None:
    """Check the response to a manifest, and its Location. spec.md#pushing-manifests"""
    answer.must(201)
    server.digest_header(answer, document.digest)
    if document.subject:
        assert answer.header("OCI-Subject") == document.subject
    _is(server, server.wire.get(answer.location, headers=ACCEPT), document)


def has_manifest(server: Server, repo: str, reference: str, document: Document) -> None:
    """Check HEAD and GET byte for byte. spec.md#pulling-manifests"""
    for send in (server.wire.head, server.wire.get):
        _is(server, send(f"/v2/{repo}/manifests/{reference}", headers=ACCEPT), document)


def _is(server: Server, answer: Answer, document: Document) -> None:
    answer.must(200)
    assert answer.body == (b"" if answer.method == "HEAD" else document.body), f"{answer.url}: other bytes"
    assert answer.header("Content-Type") == document.media_type  # and no parameters
    assert answer.header("Content-Length") == str(len(document.body))
    server.digest_header(answer, document.digest)


def has_no_manifest(server: Server, repo: str, reference: str) -> None:
    for send in (server.wire.head, server.wire.get):
        send(f"/v2/{repo}/manifests/{reference}", headers=ACCEPT).must(404).must_explain()


def delete_manifest(server: Server, repo: str, reference: str) -> None:
    """Delete the tag or manifest and check that it is missing. spec.md#deleting-tags, #deleting-manifests"""
    server.wire.delete(f"/v2/{repo}/manifests/{reference}").must(202)
    has_no_manifest(server, repo, reference)


# All of a kind


def push(server: Server, repo: str, kind: Kind, ways: Sequence[Way] = WAYS) -> None:
    """Push blobs, each by another way, then manifests by digest, then tags."""
    for way, (digest, content) in zip(itertools.cycle(ways), kind.blobs.items(), strict=False):
        way(server, repo, digest, content).must(201)
    for document in kind.documents:
        tags = kind.tags_of(document) if kind.tag_parameters else []
        answer = put(server, repo, document.digest, document, tag=tags)
        stored(server, answer, document)
        # One header for each: clients that search for a tag do not split values
        assert sorted(answer.headers.get_all("OCI-Tag") or []) == sorted(tags)
    if not kind.tag_parameters:
        for tag, digest in kind.tags.items():
            document = next(each for each in kind.documents if each.digest == digest)
            stored(server, put(server, repo, tag, document), document)


def delete(server: Server, repo: str, kind: Kind) -> None:
    """Delete tags, then manifests from the last pushed to the first, then blobs: no deleted content is referenced."""
    for tag in kind.tags:
        delete_manifest(server, repo, tag)
    for document in reversed(kind.documents):
        delete_manifest(server, repo, document.digest)
    for digest in kind.blobs:
        delete_blob(server, repo, digest)
