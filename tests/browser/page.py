"""Headless Chromium whose pages record their network requests and errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from attrs import define, field

from tests.support import peers

TIMEOUT = 20_000  # milliseconds for every wait, because test machines are slow


@define
class Seen:
    """Recorded events of a page."""

    elsewhere: list[str] = field(factory=list)
    """Blocked requests to other origins."""
    errors: list[str] = field(factory=list)
    """Console errors and uncaught exceptions."""
    dialogs: list[str] = field(factory=list)


class Browser:
    """Debian's Chromium, a context manager. Playwright keeps an event loop in this thread until it ends."""

    def __enter__(self) -> "Browser":
        if find_spec("playwright") is None:
            peers.absent("playwright is missing: pip install 'ocikit[browser]'")
        program = peers.find("chromium")
        from playwright.sync_api import sync_playwright

        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(
            executable_path=str(program), args=["--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._browser.close()
        self._playwright.stop()

    @contextmanager
    def page(self, origin: str, *, width: int = 1280, dark: bool = False) -> Iterator[tuple[Any, Seen]]:
        """Yield a page without history, and its events. It may connect to its own origin only: "http://…", or "file:".

        Raises:
            AssertionError: The page connected to another origin or opened a dialog.
        """
        seen = Seen()
        context = self._browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
        )
        context.set_default_timeout(TIMEOUT)

        def route(route: Any) -> None:
            seen.elsewhere.append(route.request.url)
            route.abort()

        def elsewhere(url: str) -> bool:
            parts = urlsplit(url)
            return parts.scheme not in {"data", "blob"} and not url.startswith(f"{origin}/")

        context.route(elsewhere, route)
        page = context.new_page()
        page.on("console", lambda said: seen.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("dialog", lambda dialog: (seen.dialogs.append(dialog.message), dialog.dismiss()))
        try:
            yield page, seen
        finally:
            context.close()
        assert not seen.elsewhere, f"asked for {seen.elsewhere}"
        assert not seen.dialogs, f"opened {seen.dialogs}"
