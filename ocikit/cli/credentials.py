"""The commands about credentials: `login`, `logout`, `explain`."""

from __future__ import annotations

import getpass
import sys

import click

import ocikit
from ocikit import display
from ocikit.cli.command import argument, command
from ocikit.cli.options import flag, json_option, option, with_session
from ocikit.cli.output import print_note
from ocikit.cli.prompts import ask
from ocikit.cli.results import print_json
from ocikit.client.login import login_host

_SOURCE = "pass it to --password-stdin, from where your secrets are stored"


def _refuse_password(ctx: click.Context, _option: click.Parameter, value: str | None) -> None:
    if value is not None and not ctx.resilient_parsing:
        raise click.UsageError(
            "a password as an argument is visible to other users and in the shell's history; use --password-stdin", ctx
        )


@command(
    schema="login",
    examples=(
        ("User name and password are prompted for", "ocikit login ghcr.io"),
        (
            "In a script, with a token from a file",
            "ocikit login ghcr.io --username ada --password-stdin < token",
        ),
    ),
)
@argument("host", "HOST", "Registry, such as ghcr.io or localhost:5000.")
@option("-u", "--username", default="", metavar="NAME", help="Name of the account; without it, it is prompted for.")
@flag("--password-stdin", help="Read the password or token from stdin.")
@click.option(
    "-p",
    "--password",
    hidden=True,
    expose_value=False,
    callback=_refuse_password,
    help="Refused: use --password-stdin.",
)
@json_option
@with_session
def login(session: ocikit.Session, host: str, *, username: str, password_stdin: bool, as_json: bool) -> None:
    """Check credentials with a registry and store them.

    They are stored where Docker and podman find them, too: by the credential helper of config.json, or in the file itself.
    Invalid credentials are not stored.
    """
    registry = login_host(host)
    if password_stdin:
        password = sys.stdin.read().removesuffix("\n").removesuffix("\r")
        if not username or not password:
            missing = "user name" if not username else "password on stdin"
            raise ocikit.CredentialsError(
                f"login at {registry} failed: there is no {missing}",
                hint="pass --username NAME, and the password to stdin",
            )
    else:
        if not sys.stdin.isatty():
            raise ocikit.CredentialsError(
                f"login at {registry} failed: stdin is not a terminal, so no password is prompted for", hint=_SOURCE
            )
        username = username or ask(f"User name at {registry}: ")
        password = getpass.getpass(f"Password or token of {username or 'the account'} at {registry}: ")
    place = session.login(host, username, password)
    if as_json:
        print_json({"host": registry, "username": username, "stored": place})
    else:
        print_note(display.sanitize(f"logged in at {registry} as {username}; the credentials are in {place}"))


@command(
    schema="logout",
    examples=(
        ("Delete the credentials of a registry", "ocikit logout ghcr.io"),
        ("Of Docker Hub", "ocikit logout docker.io"),
    ),
)
@argument("host", "HOST", "Registry, such as ghcr.io or localhost:5000.")
@json_option
@with_session
def logout(session: ocikit.Session, host: str, *, as_json: bool) -> None:
    """Delete the credentials that were stored for a registry.

    The exit code is 0 even if there were none.
    """
    registry = login_host(host)
    removed = session.logout(host)
    if as_json:
        print_json({"host": registry, "removed": removed})
    else:
        done = f"logged out of {registry}" if removed else f"no credentials were stored for {registry}"
        print_note(display.sanitize(done))


@command(
    schema="explain",
    examples=(
        ("Which account is used, and where it comes from", "ocikit explain ghcr.io"),
        ("For a repository with credentials of its own", "ocikit explain quay.io/team/data"),
        ("Only the name of the account", "ocikit explain ghcr.io --json | jq -r .username"),
    ),
)
@argument("place", "HOST[/REPOSITORY]", "Registry, or a repository of it.")
@json_option
@with_session
def explain(session: ocikit.Session, place: str, *, as_json: bool) -> None:
    """Show which credentials are used, and where they are.

    All sources are listed in the order in which they are checked. No secret is shown.
    """
    host, _, repository = place.partition("/")
    if repository:
        parsed = ocikit.Reference.parse(place)
        host, repository = parsed.registry, parsed.repository
    found = session.explain(host, repository)
    if not as_json:
        print(found)
        if found.winner is None and found.failure is None:
            print_note(display.sanitize(f"access is anonymous; 'ocikit login {found.host}' stores credentials"))
        return
    used = found.winner
    sources = [
        {
            "place": step.place,
            "username": step.username,
            "kind": step.kind,
            "key": step.key,
            "note": step.note,
            "used": step.wins,
            "failed": step.failed,
        }
        for step in found.steps
    ]
    account = {"username": used.username if used else "", "kind": used.kind if used else ""}
    print_json({"host": found.host, "repository": found.repository, **account, "sources": sources})
