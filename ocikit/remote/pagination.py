"""Paginated listings of a registry. distribution-spec spec.md#listing-tags."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import requests
from attrs import frozen

from ocikit.errors import InvalidResponse, RegistryError
from ocikit.remote.http.responses import json_object
from ocikit.remote.http.transport import Transport
from ocikit.remote.http.urls import Origin, join
from ocikit.spec.challenge import Scope

#: Bytes of one page of tags, repositories or referrers.
PAGE_LIMIT = 16 << 20

_MAX_PAGES = 10_000  # of one listing: more than ten million names must be a loop (DoS)


@frozen
class Page:
    """One page of a listing."""

    body: bytes
    response: requests.Response
    action: str

    def items(self, key: str) -> list[Any]:
        """Return the list at a key of the page's JSON object.

        distribution and Nexus return null for an empty list.

        Raises:
            InvalidResponse: The page is not JSON, or the value is not a list.
        """
        items = json_object(self.response, self.body, self.action).get(key)
        if items is None:
            return []
        if not isinstance(items, list):
            raise InvalidResponse(
                f"failed to {self.action}: expected an array @ $.{key}",
                hint="the server does not implement the registry API; contact its operator",
            )
        return items


def iter_pages(
    transport: Transport, path: str, action: str, *, scopes: Sequence[Scope], accept: str = "application/json"
) -> Iterator[Page]:
    """Yield the pages of a listing, following `Link` headers.

    Args:
        transport: The registry.
        path: Path and query of the first page.
        action: Operation, as named in error messages.
        scopes: Rights that the requests need.
        accept: Media type of a page.

    Raises:
        InvalidResponse: A link leads to another origin or back to a page before, or there are too many pages.
        RegistryError: The registry rejects a request.
    """
    seen: set[str] = set()
    url = path
    for _ in range(_MAX_PAGES):
        page = _fetch_page(transport, url, action, scopes, accept, first=not seen)
        seen |= {url, join(transport.base, url), str(page.response.url)}
        following = next_link(page.response)
        yield page
        if following is None:
            return
        _check_link(transport, action, str(page.response.url), following, seen)
        url = following
    raise InvalidResponse(
        f"failed to {action}: {transport.host} returned more than {_MAX_PAGES} pages", host=transport.host
    )


def _check_link(transport: Transport, action: str, url: str, following: str, seen: set[str]) -> None:
    origin = Origin.of(following)
    # The registry controls the Link header: restrict it to the registry's origin (SSRF, credential forwarding)
    if origin != Origin.of(url):
        raise InvalidResponse(
            f"failed to {action}: {transport.host} continues a list at {origin.scheme}://{origin.host}:{origin.port}",
            hint="refused: the pages of a list must come from the registry itself",
            url=following,
            host=transport.host,
        )
    if following in seen:
        raise InvalidResponse(
            f"failed to {action}: {transport.host} repeats a page of a list",
            hint="its Link headers form a circle",
            host=transport.host,
        )


def _fetch_page(
    transport: Transport, url: str, action: str, scopes: Sequence[Scope], accept: str, *, first: bool
) -> Page:
    """Fetch one page; the first one without our page size if that is rejected.

    ECR answers UNSUPPORTED and distribution 3.1 PAGINATION_NUMBER_INVALID to a large n: ggcr#681, distribution#4844.
    """

    def fetch(url: str) -> Page:
        headers = {"Accept": accept}
        return Page(*transport.read(url, action, limit=PAGE_LIMIT, scopes=scopes, headers=headers), action)

    try:
        return fetch(url)
    except RegistryError as error:
        without_size = re.sub(r"([?&])n=\d+&?", r"\1", url).rstrip("?&")
        if not first or without_size == url or error.status not in {400, 405, 416}:
            raise
        return fetch(without_size)


def next_link(response: requests.Response) -> str | None:
    """Return the absolute URL of the Link with the relation "next", or None.

    RFC 8288, parsed leniently.
    """
    # Exclude `<` from the URL: it prevents quadratic backtracking on a header of only `<` (DoS)
    for match in re.finditer(r"<([^<>]*)>((?:[^<,\"]|\"[^\"]*\")*)", response.headers.get("Link", "")):
        relation = re.search(r";\s*rel\s*=\s*(?:\"([^\"]*)\"|([^;,\s]+))", match[2], re.IGNORECASE)
        if relation and "next" in (relation[1] or relation[2] or "").lower().split():
            return join(str(response.url), match[1])
    return None
