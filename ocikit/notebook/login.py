"""Login form for notebooks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ipywidgets as w  # type: ignore[import-untyped]  # has no types

from ocikit.errors import OcikitError
from ocikit.notebook.column import css, message, named, on_enter, status, styles
from ocikit.notebook.jobs import Jobs
from ocikit.progress.marimo import in_marimo

#: Seconds after Enter in which the browser sends the new value of the field.
_VALUE_DELAY = 0.3


class LoginForm:
    """A form for user name and password. The button, or Enter, clears the password field at once.

    Args:
        host: Host of the registry, as shown.
        username: Initial value of the user name.
        login: Function that checks and stores `(host, username, password)` and returns where they are stored.
        then: Called after a login.
    """

    def __init__(
        self,
        host: str,
        username: str,
        login: Callable[[str, str, str], str],
        then: Callable[[], None] = lambda: None,
    ) -> None:
        self._host = host
        self._login = login
        self._then = then
        self._jobs = Jobs()
        self.username = w.Text(value=username, placeholder="user name", continuous_update=False)
        # Without continuous_update, the value is sent once, when the field loses focus
        self.password = w.Password(placeholder="password or token", continuous_update=False)
        self.button = w.Button(description="Log in", button_style="primary")
        self.status = status()
        self.status.value = message(f"log in to {host}")
        self.button.on_click(lambda _: self._submit())
        self._entered = False
        on_enter(self.password, self._enter)
        self.password.observe(self._receive, "value")
        named(self.username, "user name")
        named(self.password, "password or token")
        row = w.HBox([self.username, self.password, self.button], layout=w.Layout(flex_flow="row wrap"))
        self.widget = w.VBox([styles(), self.status, row])
        self.widget.add_class("ocikit-form")

    def __repr__(self) -> str:
        return f"<login form for {self._host}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """Return the widget's MIME bundle; neither it nor a saved notebook contains the password."""
        if in_marimo():
            text = (
                f"marimo shows no form of ipywidgets\nlog in to {self._host} in a terminal: ocikit login {self._host}"
            )
            return {"text/plain": text, "text/html": css() + message(text, problem=True)}
        bundle = self.widget._repr_mimebundle_(**kwargs)
        (bundle[0] if isinstance(bundle, tuple) else bundle)["text/plain"] = repr(self)
        return bundle

    def wait(self, timeout: float = 60.0) -> bool:
        """Wait until the login has finished.

        Args:
            timeout: Maximum time to wait, in seconds.

        Returns:
            False if the login is still in progress.
        """
        return self._jobs.wait(timeout)

    def _enter(self) -> None:
        """Submit after Enter in the password field, with the value that the browser sends next, if it has changed."""
        self._entered = True
        self._jobs.run("enter", lambda _: time.sleep(_VALUE_DELAY), lambda _: self._submit_entered(), lambda _: None)

    def _receive(self, change: Any) -> None:
        if change["new"] and self._entered:
            self._jobs.cancel("enter")
            self._submit_entered()

    def _submit_entered(self) -> None:
        entered, self._entered = self._entered, False
        if entered:
            self._submit()

    def _submit(self) -> None:
        username, password = self.username.value.strip(), self.password.value
        self.password.value = ""
        if not username or not password:
            self._show("enter user name and password", problem=True)
            return
        self._show("checking …")

        def done(place: str) -> None:
            self._show(f"logged in as {username}; stored in {place}")
            self.button.disabled = True
            self._then()

        def failed(error: OcikitError) -> None:
            self._show(str(error), problem=True)

        self._jobs.run("login", lambda _: self._login(self._host, username, password), done, failed)

    def _show(self, text: str, *, problem: bool = False) -> None:
        self.status.value = message(f"{self._host}: {text}", problem=problem)
