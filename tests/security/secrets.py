"""Secrets in values, errors and cassettes, as they are shown, logged and pickled."""

import base64
import json
import os
import pickle
import re
import traceback

import ocikit
from ocikit.remote.auth.keychain import Credentials

from tests.security.attacks import ADA, BASIC, IDENTITY, PASSWORD, SECRETS, TOKEN, attack
from tests.support.home import ROOT

CONTENT = b"content"


def kept(scene, *values):
    """Render values in every form that may reach a log, a file or a notebook."""
    for value in values:
        texts = [repr(value), str(value), getattr(value, "_repr_html_", str)() or ""]
        if isinstance(value, BaseException):
            texts.append("".join(traceback.format_exception(value)))
        scene.seen += [re.sub(r"[\x00-\x1f]", " ", text) for text in texts]
        try:
            pickled = pickle.dumps(value)
        except (TypeError, AttributeError, pickle.PicklingError):
            continue
        for what, secret in SECRETS.items():
            assert secret.encode() not in pickled, f"the {what} is pickled with {type(value).__name__}"


@attack("secrets at rest", "nothing: the user keeps a session and what came of it", ends="nothing")
def what_a_session_leaves_behind_has_no_secret(scene):
    ref = scene.artifact(scene.layer(CONTENT))
    scene.protect()
    artifact = scene.user(lambda: scene.session.pull(ref, "out"))
    session = scene.session
    registry = session.registry(scene.registry.host)
    kept(scene, session, artifact, registry, registry.repository("a/b"), registry.transport, registry.transport._auth, registry.transport._auth._tokens,
         session._keychain, session._backends.network, session.explain(scene.registry.host), session.ping(scene.registry.host), artifact.files,
         artifact["file"], session.cache)  # fmt: skip
    for base, _, names in os.walk(scene.root):
        for name in names:
            content = open(os.path.join(base, name), "rb").read()
            assert not any(secret.encode() in content for secret in SECRETS.values()), name


@attack("secrets at rest", "{}", ends="Unauthorized|Denied|RegistryError|InvalidResponse|ConnectionFailed|TooLarge|RateLimited",
        each={f"{status} with what was sent, to {method}": (status, method) for status in (400, 401, 403, 429, 500) for method in ("GET", "POST")})  # fmt: skip
def an_error_that_repeats_what_was_sent_shows_no_secret_of_ours(scene, what):
    """A registry echoes the Authorization header in its error. Users paste errors, so the secret must be redacted."""
    status, method = what
    scene.artifact(scene.layer(CONTENT))
    scene.protect()
    (scene.work / "file").write_bytes(b"new")
    scene.registry.on(method, ".*", times=None, when=lambda r: "Authorization" in r.headers, status=status, headers={"X-Request-Id": "1"},
                      body=json.dumps({"errors": [{"code": "X", "message": "no"}]}).encode())  # fmt: skip
    ref = f"{scene.registry.host}/a/b:v1"
    scene.registry.on("HEAD", ".*/manifests/.*", times=None, status=405)
    scene.user(lambda: scene.session.inspect(ref) if method == "GET" else scene.session.push(ref, "file"))
    error = scene.ends[-1]
    kept(scene, error, pickle.loads(pickle.dumps(error)))
    chain = [error]
    while (error := error.__cause__ or error.__context__) is not None:
        assert error not in chain, "a chain of errors leads back to its beginning"
        chain.append(error)
        kept(scene, error)


@attack("secrets at rest", "a signed URL in {}", ends="InvalidResponse|BlobUnknown|RegistryError|ConnectionFailed|UploadInvalid|Denied|CopyError",
        each={"a redirect": 307, "a Location": 202})  # fmt: skip
def the_signature_of_a_url_is_not_shown(scene, status):
    ref = scene.artifact(scene.layer(CONTENT))
    (scene.work / "file").write_bytes(b"new")
    location = f"{scene.auth.url}/x?X-Amz-Signature={TOKEN}&sig={TOKEN}&{TOKEN}#{TOKEN}"
    if status == 307:
        scene.registry.on("GET", ".*/blobs/.*", times=None, status=307, headers={"Location": location})
        scene.user(lambda: scene.session.pull(ref, "out"))
    else:
        scene.registry.on("POST", ".*", times=None, status=202, headers={"Location": location})
        scene.user(lambda: scene.session.push(ref, "file"))
    kept(scene, scene.ends[-1])


@attack(
    "secrets at rest",
    "wrong credentials of every kind",
    ends="Unauthorized|CredentialsError|NameUnknown|InvalidReference|InvalidDigest",
)
def credentials_that_do_not_work_are_not_shown(scene):
    scene.challenge(f"{scene.auth.url}/token")
    scene.auth.on(".*", "/token", times=None, status=401)
    ref = f"{scene.registry.host}/a/b:v1"
    for credentials in (
        ADA,
        Credentials(identity_token=IDENTITY),
        Credentials(registry_token=TOKEN),
        Credentials(username="ada", password=PASSWORD),
    ):
        session = scene.open_session(credentials=credentials)
        scene.user(lambda session=session: session.inspect(ref))
        kept(scene, session, scene.ends[-1])
    for wrong in ((PASSWORD,), PASSWORD, {"user": PASSWORD}, ("ada", PASSWORD, "more"), 5):
        scene.user(lambda wrong=wrong: scene.open_session(credentials={scene.registry.host: wrong}).inspect(ref))
        scene.user(lambda wrong=wrong: ocikit.Session(credentials=wrong, progress=False).inspect(ref))
    scene.user(lambda: scene.session.login(scene.registry.host, *ADA))
    scene.user(lambda: scene.session.login(scene.registry.host, "ada", f"{PASSWORD}\n"))
    scene.user(lambda: scene.session.login(f"https://ada:{PASSWORD}@{scene.registry.host}", *ADA))
    scene.user(lambda: scene.session.inspect(f"ada:{PASSWORD}@{ref}"))
    scene.user(lambda: scene.session.inspect(f"https://ada:{PASSWORD}@{ref}"))


@attack("secrets at rest", "a config.json of the user's with {}", ends="CredentialsError|Unauthorized|nothing",
        each={"broken JSON": '{"auths": {"x": {"auth": "%s"', "an auth with invalid base64": '{"auths": {"HOST": {"auth": "!%s"}}}',
              "an auth without a colon": '{"auths": {"HOST": {"auth": "%s"}}}', "an auth that is a list": '{"auths": {"HOST": ["%s"]}}',
              "a password as a key": '{"auths": {"%s": {}}, "HttpHeaders": {"x": "%s"}}'})  # fmt: skip
def a_damaged_file_of_credentials_is_not_quoted(scene, text):
    config = scene.root / "house/.docker/config.json"
    config.parent.mkdir()
    config.write_text(
        text.replace("HOST", scene.registry.host).replace("%s", BASIC[6:] if "no base64" not in text else PASSWORD)
    )
    scene.challenge(f"{scene.auth.url}/token")
    scene.auth.on("GET", "/token", times=None, status=401)
    with ocikit.Session(progress=False) as session:
        scene.user(lambda: session.inspect(f"{scene.registry.host}/a/b:v1"))
        kept(scene, session, scene.ends[-1])


@attack("secrets at rest", "nothing: the cassettes in the repository are read", ends="nothing")
def cassettes_have_no_credential(scene):
    """A leaked token of a test registry is harmless, but it shows that secrets can leak."""
    found = []
    for path in sorted((ROOT / "cassettes").rglob("*.yaml")):
        text = path.read_text()
        found += [
            path.name
            for match in re.finditer(r"(?i)(?:authorization|cookie)\W+[-\s'\"]*(\w+ [A-Za-z0-9+/=._-]{12,})", text)
            if match
        ]
        found += [
            path.name
            for match in re.finditer(r'"(?:access_token|token|refresh_token)\\?":\s*\\?"([^"\\]{12,})', text)
            if match
        ]
        found += [path.name for match in re.findall(r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}", text)]
        found += [
            path.name
            for match in re.findall(r"(?i)basic ([A-Za-z0-9+/]{8,}={0,2})", text)
            if b":" in base64.b64decode(match + "==")
        ]
    assert not found
    scene.user(lambda: None)
