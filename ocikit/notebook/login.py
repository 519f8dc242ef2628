"""Logging in without a secret in a cell or in what is saved: asked for unseen, or by a small form."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from typing import Any

from ocikit.errors import CredentialsError, OcikitError


def ask(place: str, username: str = "") -> tuple[str, str]:
    """The user name and the password that somebody types; the password isn't shown.

    Raises: CredentialsError: nobody can be asked here.
    """
    try:
        user = username or input(f"User name at {place}: ").strip()
        return user, getpass.getpass(f"Password or token of {user or 'the account'} at {place}: ")
    except (EOFError, OSError, RuntimeError) as error:  # the last is how a kernel without a front end refuses
        raise CredentialsError(
            f"nobody can be asked for the password at {place} here",
            hint="pass user name and password from where your secrets are kept, such as os.environ",
        ) from error


class LoginForm:
    """A form for a notebook. The password leaves it the moment that the button is pressed.

    Args:
        place: the registry, as shown.
        username: to begin with.
        login: checks and keeps; gives the place where.
    """

    def __init__(self, place: str, username: str, login: Callable[[str, str], str]) -> None:
        import ipywidgets as w  # type: ignore[import-untyped]  # noqa: PLC0415 - in notebooks only; it has no types

        from ocikit.notebook.column import Jobs, message  # noqa: PLC0415 - as above

        self._login = login
        self._message = message
        self._place = place
        self._jobs = Jobs()
        self.username = w.Text(value=username, placeholder="user name", continuous_update=False)
        # Sent once, when the field is left: not with each letter, and never shown
        self.password = w.Password(placeholder="password or token", continuous_update=False)
        self.button = w.Button(description="Log in", button_style="primary")
        self.status = w.HTML(message(f"log in to {place}"))
        self.button.on_click(lambda _: self._submit())
        row = w.HBox([self.username, self.password, self.button], layout=w.Layout(flex_flow="row wrap"))
        self.widget = w.VBox([self.status, row])

    def __repr__(self) -> str:
        return f"<form to log in to {self._place}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The widget; no secret is in it, nor in what is saved of it."""
        bundle = self.widget._repr_mimebundle_(**kwargs)
        (bundle[0] if isinstance(bundle, tuple) else bundle)["text/plain"] = repr(self)
        return bundle

    def wait(self, timeout: float = 60.0) -> bool:
        """Whether what was asked is answered within so many seconds."""
        return self._jobs.wait(timeout)

    def _submit(self) -> None:
        user, secret = self.username.value.strip(), self.password.value
        self.password.value = ""
        if not user or not secret:
            self._say("user name and password, please", problem=True)
            return
        self._say("asking …")

        def done(place: str) -> None:
            self._say(f"logged in as {user}; kept in {place}")
            self.button.disabled = True

        def failed(error: OcikitError) -> None:
            self._say(str(error), problem=True)

        self._jobs.run("login", lambda _: self._login(user, secret), done, failed)

    def _say(self, text: str, *, problem: bool = False) -> None:
        self.status.value = self._message(f"{self._place}: {text}", problem=problem)
