"""The command line next to those of oras, crane and regctl, on one registry with one login."""

import json
import re

import ocikit
import pytest

from tests.support import peers
from tests.support.home import cli, write

REPORT = "application/vnd.example.report"
PASSWORD = "love:lace"


@pytest.fixture
def theirs(home):
    """Return a function that runs another client with our home folder, and returns what it prints."""
    return lambda *arguments: peers.run(*arguments, home=home.parent).stdout


@pytest.fixture
def guarded(home):
    with ocikit.serve(home / "guarded", htpasswd={"ada": PASSWORD}) as running:
        yield running.host


@pytest.fixture
def ref(home, guarded):
    """Log in by our command, and push by it."""
    assert ocikit_out("login", guarded, "--username", "ada", "--password-stdin", stdin=PASSWORD) == ""
    write(home, {"data.csv": "x\n1\n", "report.txt": "good\n"})
    ref = f"{guarded}/t/d:v1"
    ocikit_out("push", ref, "data.csv")
    return ref


def ocikit_out(*arguments, stdin=""):
    done = cli(*arguments, input=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.peers("oras")
def test_oras_uses_our_login_and_we_use_its(ref, guarded, home, theirs):
    theirs("oras", "pull", "--plain-http", ref, "-o", home / "out")
    assert (home / "out/data.csv").read_text() == "x\n1\n"
    ocikit_out("logout", guarded)
    assert cli("pull", ref, "--quiet").returncode == 4
    theirs("oras", "login", "--plain-http", guarded, "-u", "ada", "-p", PASSWORD)
    assert ocikit_out("pull", ref, "back").endswith("back")
    assert json.loads(ocikit_out("explain", guarded, "--json"))["username"] == "ada"


@pytest.mark.peers("oras", "crane")
def test_digests_tags_and_repositories_are_those_of_others(ref, theirs):
    digest = ocikit_out("resolve", ref, "--digest")
    assert digest == theirs("oras", "resolve", "--plain-http", ref).strip()
    assert digest == theirs("crane", "digest", "--insecure", ref).strip()
    ocikit_out("tag", ref, "v2", "stable")
    ours = ocikit_out("tags", ref).split()
    assert ours == ["stable", "v1", "v2"] and ours == sorted(
        theirs("crane", "ls", "--insecure", ref.removesuffix(":v1")).split()
    )
    ocikit_out("delete", ref.replace("v1", "v2"))
    assert "v2" not in theirs("oras", "repo", "tags", "--plain-http", ref.removesuffix(":v1")).split()


@pytest.mark.peers("oras")
def test_attached_artifacts_are_those_of_oras(ref, theirs):
    pushed = ocikit_out("attach", ref, "report.txt", "--artifact-type", REPORT)
    attached = theirs("oras", "attach", "--plain-http", "--artifact-type", REPORT, pushed, "report.txt")
    found = theirs("oras", "discover", "--plain-http", "--format", "tree", ref)
    ours = [json.loads(line) for line in ocikit_out("referrers", ref, "--json").splitlines()]
    assert [each["depth"] for each in ours] == [1, 2] and "sha256:" in attached
    assert {each["digest"] for each in ours} <= set(re.findall(r"sha256:[0-9a-f]{64}", found))
