"""Files of docker, and output of credential helpers."""

import base64
import re

import requests
from ocikit.remote.auth.authenticator import Authenticator
from ocikit.remote.auth.keychain import Keychain
from ocikit.remote.auth.tokens import TokenCache
from ocikit.spec.challenge import Scope

from tests.fuzz.headers import an_answer, response_of
from tests.fuzz.target import (
    JSON_WORDS,
    SECRET,
    URL,
    scratch,
    target,
    text_of,
    typed,
)

AUTH = base64.b64encode(f"ada:{SECRET}".encode())
CONFIG_WORDS = (
    *JSON_WORDS, b'"auths"', b'"credHelpers"', b'"credsStore"', b'"auth"', b'"identitytoken"', b'"registrytoken"', b'"username"',
    b'"password"', b'"ghcr.io"', b'"https://ghcr.io/v2/"', b'"ghcr.io/team"', b'"registry.example"', b'"<token>"', b'"../x"', b'"x\\ny"',
    b'"%b\\n"' % SECRET.encode(), b'"%b\\ud800"' % SECRET.encode(),
)  # fmt: skip


@target(
    b'{"auths":{"https://ghcr.io/v2/":{"auth":"%b"},"ghcr.io/team":{"username":"ada","password":"%b"}}}' % (AUTH, SECRET.encode()),
    b'{"auths":{"ghcr.io":{"identitytoken":"%b"},"GHCR.IO/team/data":{"registrytoken":"%b"}},"HttpHeaders":{"a":"b"}}' % (SECRET.encode(), SECRET.encode()),
    b'{"auths":{"ghcr.io":{"auth":"%b"}},"credHelpers":{"quay.io":"x","ghcr.io":""},"credsStore":""}' % AUTH,
    b'{"auths":{},"credHelpers":{"ghcr.io":"nowhere"},"credsStore":"nowhere"}',
    words=CONFIG_WORDS,
)  # fmt: skip
def docker_config(data: bytes) -> None:
    """Parse docker's config.json; the same parser reads podman's auth.json."""
    with scratch() as home:
        (home / ".docker").mkdir()
        (home / ".docker" / "config.json").write_bytes(data)
        keys = Keychain(environ={"PATH": str(home), "HOME": str(home), "XDG_RUNTIME_DIR": str(home)}, home=home)
        secret = "" if _shown_by_right(data) else SECRET
        explanation = typed(keys.explain, "ghcr.io", "team/data", secret=secret)
        assert not secret or secret not in repr(explanation) + str(explanation)
        found = typed(keys.for_reference, "ghcr.io", "team/data", secret=secret)
        if found is None:
            return
        assert not secret or secret not in repr(found)
        auth = Authenticator("ghcr.io", keys, TokenCache(), _no_token)
        response = response_of(an_answer('WWW-Authenticate: Basic realm="x"', status="401 Unauthorized"))
        sent = typed(auth.answer, response, URL, (Scope.repository("team/data", "pull"),), None, secret=secret)
        if sent is not None:
            # A value that no header can hold would raise an error of requests that contains it
            requests.utils.check_header_validity(("Authorization", sent.value))
            sent.value.encode("latin-1")


def _shown_by_right(data: bytes) -> bool:
    """Return True if damage has moved the secret into a user, registry or helper name."""
    return any(
        SECRET in text_of(name)
        for name in (
            *re.findall(rb'"([^"]*)"\s*:', data),
            *re.findall(rb'"(?:username|credsStore)"\s*:\s*"([^"]*)"', data),
            *re.findall(rb'"credHelpers"(.*)', data, re.DOTALL),
            *(
                base64.b64decode(text).partition(b":")[0]
                for text in re.findall(rb"[A-Za-z0-9+/]{8,}={0,2}", data)
                if len(text) % 4 == 0
            ),
        )
    )


def _no_token(*_: object) -> requests.Response:
    raise AssertionError("Basic needs no token server")


@target(
    b'{"ServerURL":"https://ghcr.io","Username":"ada","Secret":"%b"}' % SECRET.encode(),
    b'{"ServerURL":"","Username":"<token>","Secret":"%b"}' % SECRET.encode(),
    b"credentials not found in native keychain",
    words=(*CONFIG_WORDS, b'"Username"', b'"Secret"', b"credentials not found"),
    examples=8,
)
def helper(data: bytes) -> None:
    """Run a credential helper: a real process that fails if the first byte is odd."""
    with scratch() as home:
        program = home / "docker-credential-fuzz"
        program.write_text(
            f'#!/bin/sh\nwhile read -r _; do :; done\n/bin/cat "{home}/said"\nexit {data[:1].hex() in "13579bdf" and 1 or 0}\n'
        )
        program.chmod(0o700)
        (home / "said").write_bytes(data)
        (home / "config.json").write_bytes(b'{"credsStore":"fuzz"}')
        keys = Keychain(
            environ={"PATH": str(home), "DOCKER_CONFIG": str(home), "XDG_RUNTIME_DIR": str(home)}, home=home
        )
        found = typed(keys.for_reference, "ghcr.io", "team/data", secret=SECRET)
        if found is not None:
            assert SECRET not in repr(found) or SECRET in found.username
