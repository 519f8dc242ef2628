"""Commands about credentials, references, attached artifacts and objects."""

import json
import os
import pty
import sys

import ocikit
import pytest
from ocikit.cli import main
from ocikit.remote.repository import Repository

from tests.support.home import write
from tests.support.manifests import docker_list

ANSI = "\x1b[31mred\x1b]0;owned\x07\u202etxt\r\n  second"
REPORT = "application/vnd.example.report"
SIGNATURE = "application/vnd.example.signature"


@pytest.fixture
def run(home, capfd, monkeypatch):
    """Return a function that runs a command and returns exit code, stdout and stderr."""

    def function(*arguments, stdin=""):
        capfd.readouterr()
        (home / "stdin").write_text(stdin)
        with (home / "stdin").open() as stream, monkeypatch.context() as patch:
            patch.setattr("sys.stdin", stream)
            code = main([str(a) for a in arguments])
        return code, *capfd.readouterr()

    return function


@pytest.fixture
def typed(home, capfd):
    """Return a function that runs a command at a terminal where an answer is typed; it returns exit code and output.

    The command runs in a child process, whose controlling terminal the password prompt opens.
    """

    def function(*arguments, answers):
        pid, terminal = pty.fork()
        if not pid:
            status = 99
            try:
                sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")
                status = main([str(a) for a in arguments])
                sys.stdout.flush()
            finally:
                os._exit(status)
        output = b""
        waiting = list(answers)
        while True:
            try:
                chunk = os.read(terminal, 1024)
            except OSError:  # the child has closed the terminal
                break
            if not chunk:
                break
            output += chunk
            if waiting and output.endswith((b": ", b"] ")):
                os.write(terminal, waiting.pop(0).encode() + b"\n")
        os.close(terminal)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), output.decode().replace("\r\n", "\n")

    return function


@pytest.fixture
def ref(server, home):
    rows = "".join(f"{n},{n * n}\n" for n in range(100))
    write(home, {"data/a.csv": f"x,y\n{rows}", "data/b.txt": "".join(f"line {n}\n" for n in range(100))})
    ref = f"{server.host}/t/d:v1"
    ocikit.push(ref, "data/.")
    return ref


# Tags and digests


def test_resolve_prints_the_digest_that_a_tag_names(run, ref):
    digest = ocikit.pin(ref).digest
    assert run("resolve", ref) == (0, f"{ref}@{digest}\n", "")
    assert run("resolve", ref, "--digest") == (0, f"{digest}\n", "")
    assert json.loads(run("resolve", ref, "--json")[1]) == {
        "reference": f"{ref}@{digest}",
        "digest": digest,
        "tag": "v1",
    }
    code, out, err = run("resolve", f"{ref}x")
    assert (code, out) == (3, "") and "has no tag 'v1x'" in err


def test_resolve_selects_a_platform(run, server):
    with ocikit.Session() as session:
        repository = session.repository(f"{server.host}/t/i", push=True)
        assert isinstance(repository, Repository)
        docker_list(repository, foreign=False)
    images = [m for m in ocikit.inspect(f"{server.host}/t/i:v1").index.manifests if m.platform.os == "linux"]
    assert len(images) == 2
    for manifest in images:
        code, out, err = run("resolve", f"{server.host}/t/i:v1", "--digest", "--platform", manifest.platform)
        assert (code, out, err) == (0, f"{manifest.digest}\n", "")


def test_exists_answers_by_its_exit_code(run, ref, server):
    assert run("exists", ref) == (0, "", f"{ref} exists\n")
    for missing in (f"{ref}x", f"{server.host}/t/other:v1"):
        assert run("exists", missing) == (3, "", f"there is no {missing}\n")
        assert run("exists", missing, "--quiet") == (3, "", "")
    code, out, _ = run("exists", ref, "--json")
    assert (code, json.loads(out)) == (0, {"reference": ref, "exists": True})
    assert run("exists", "localhost:1/t/d:v1")[0] == 5


def test_tag_names_the_same_bytes(run, ref):
    pinned = ocikit.pin(ref)
    name = ref.removesuffix(":v1")
    assert run("tag", ref, "v2", "stable", "--dry-run") == (0, "v2  created\nstable  created\n", "")
    assert list(ocikit.tags(ref)) == ["v1"]
    assert run("tag", ref, "v2", "stable") == (0, f"{pinned}\n", "")
    assert ocikit.pin(f"{name}:stable").digest == ocikit.pin(f"{name}:v2").digest == pinned.digest
    ocikit.push(f"{name}:new", "data/a.csv")
    code, out, _ = run("tag", f"{name}:new", "v2", "new", "--dry-run")
    assert (code, out) == (0, f"v2  moved from {pinned.digest.short}\nnew  unchanged\n")
    changes = json.loads(run("tag", f"{name}:new", "v2", "--json")[1])
    assert changes["tags"] == [{"tag": "v2", "change": "moved"}] and not changes["dry_run"]
    assert ocikit.pin(f"{name}:v2").digest == ocikit.pin(f"{name}:new").digest
    assert run("tag", ref, "bad tag")[0] == 2


def test_delete_removes_a_tag_or_a_manifest(run, ref):
    name = ref.removesuffix(":v1")
    ocikit.tag(ref, "v2", "v3")
    digest = ocikit.pin(ref).digest
    code, out, _ = run("delete", f"{name}:v2", "--dry-run")
    assert (code, out) == (0, f"{name}:v2  the tag of {digest.short}\n")
    assert run("delete", f"{name}:v2") == (0, "", f"deleted {name}:v2\n")
    assert list(ocikit.tags(name)) == ["v1", "v3"]
    code, out, _ = run("delete", f"{name}@{digest}", "--json")
    assert json.loads(out)["deletes"] == "manifest" and not ocikit.exists(ref)
    code, _, err = run("delete", name)
    assert code == 2 and "neither tag nor digest" in err


def test_delete_of_a_wrong_reference_deletes_nothing(run, ref):
    name = ref.removesuffix(":v1")
    code, _, err = run("delete", ref, f"{name}:missing")
    assert code == 3 and "'missing'" in err and ocikit.exists(ref)


def test_delete_asks_a_terminal(typed, ref):
    code, output = typed("delete", ref, answers=["n"])
    assert code == 1 and "Delete? [y/N]" in output and "nothing was deleted" in output and ocikit.exists(ref)
    code, output = typed("delete", ref, answers=["y"])
    assert code == 0 and f"deleted {ref}" in output and not ocikit.exists(ref)


def test_delete_with_yes_asks_nothing(typed, ref):
    code, output = typed("delete", ref, "--yes", answers=[])
    assert code == 0 and "Delete?" not in output and not ocikit.exists(ref)


# Attached artifacts


def test_attach_makes_a_referrer_and_prints_it(run, ref):
    code, out, err = run("attach", ref, "data/b.txt", "--artifact-type", REPORT, "--dry-run")
    assert code == 0 and f"+ {REPORT}" in out and "already there" in out and not ocikit.referrers(ref)
    code, out, err = run("attach", ref, "data/b.txt", "--artifact-type", REPORT, "--annotation", "by=ada")
    (found,) = ocikit.referrers(ref)
    assert code == 0 and out.strip().endswith(f"@{found.digest}") and "1 file" in err
    assert found.artifact_type == REPORT and ocikit.inspect(found).annotations["by"] == "ada"
    code, _, err = run("attach", ref, "data/b.txt")
    assert code == 2 and "--artifact-type" in err


def test_referrers_are_a_tree(run, ref):
    report = ocikit.attach(ref, artifact_type=REPORT, annotations={"n": "1"})
    signature = ocikit.attach(report, artifact_type=SIGNATURE, annotations={"n": "2"})
    other = ocikit.attach(ref, artifact_type=SIGNATURE, annotations={"n": "3"})
    code, out, err = run("referrers", ref)
    assert (code, err) == (0, "")
    head, *lines = out.splitlines()
    assert head == str(ocikit.pin(ref))
    by_digest = {next(d for d in (report, signature, other) if str(d.digest) in line).digest: line for line in lines}
    assert by_digest[report.digest].startswith(("├── ", "└── ")) and REPORT in by_digest[report.digest]
    assert by_digest[signature.digest].startswith(("│   └── ", "    └── "))
    assert lines.index(by_digest[signature.digest]) == lines.index(by_digest[report.digest]) + 1

    assert len(run("referrers", ref, "--depth", "1")[1].splitlines()) == 3
    entries = [json.loads(line) for line in run("referrers", ref, "--json", "--artifact-type", REPORT)[1].splitlines()]
    assert [(e["digest"], e["depth"], e["subject"]) for e in entries] == [
        (report.digest, 1, ocikit.pin(ref).digest),
        (signature.digest, 2, report.digest),
    ]
    code, out, err = run("referrers", ref, "--artifact-type", "application/vnd.example.nothing")
    assert code == 0 and "nothing of this type" in err


def test_referrers_of_an_endless_chain_end(run, ref):
    """A registry could answer that each referrer has another one."""
    subject = ref
    for number in range(5):
        subject = ocikit.attach(subject, artifact_type=REPORT, annotations={"n": str(number)})
    assert len(run("referrers", ref, "--depth", "3")[1].splitlines()) == 4


def test_text_of_a_registry_is_escaped_in_a_tree(run, ref):
    ocikit.attach(ref, artifact_type=REPORT, annotations={"org.opencontainers.image.created": ANSI})
    out = run("referrers", ref)[1]
    assert "\x1b" not in out and "\u202e" not in out and len(out.splitlines()) == 2


# Credentials


@pytest.fixture
def guarded(home):
    with ocikit.serve(home / "guarded", htpasswd={"ada": "love:lace é"}) as running:
        yield running.host


def test_login_stores_checked_credentials(run, guarded, home):
    code, out, err = run("login", guarded, "--username", "ada", "--password-stdin", stdin="not-it\n")
    assert code == 4 and out == "" and "rejects the credentials" in err and "not-it" not in err
    assert "anonymous" in run("explain", guarded)[2]
    code, out, err = run("login", guarded, "--username", "ada", "--password-stdin", "--json", stdin="love:lace é\n")
    assert code == 0 and json.loads(out) == {"host": guarded, "username": "ada", "stored": "~/.docker/config.json"}
    write(home, {"a.txt": "x"})
    assert run("push", f"{guarded}/t/d:v1", "a.txt")[0] == 0
    code, out, err = run("explain", f"{guarded}/t/d:v1", "--json")
    found = json.loads(out)
    assert (found["username"], found["repository"], found["kind"]) == ("ada", "t/d", "password") and "love" not in out
    assert "-> ~/.docker/config.json: ada" in run("explain", guarded)[1]

    assert run("logout", guarded) == (0, "", f"logged out of {guarded}\n")
    assert run("logout", guarded) == (0, "", f"no credentials were stored for {guarded}\n")
    assert run("pull", f"{guarded}/t/d:v1", "out")[0] == 4


def test_login_prompts_in_a_terminal_without_an_echo(typed, guarded):
    code, output = typed("login", guarded, answers=["ada", "love:lace é"])
    assert code == 0 and f"logged in at {guarded} as ada" in output
    assert "User name at" in output and "Password or token of ada" in output and "lace" not in output


def test_login_takes_no_password_as_an_argument(run, server):
    code, out, err = run("login", server.host, "--username", "ada", "--password", "secret-word")
    assert code == 2 and "--password-stdin" in err and "secret-word" not in out + err
    assert "--password " not in run("login", "--help")[1].replace("--password-stdin", "")


@pytest.mark.parametrize("arguments", [(), ("--password-stdin",), ("--username", "ada", "--password-stdin")])
def test_login_without_a_terminal_names_the_missing_value(run, server, arguments):
    code, out, err = run("login", server.host, *arguments)
    assert (code, out) == (4, "") and "--password-stdin" in err or "password to stdin" in err


# Content


def test_head_shows_the_first_lines_or_bytes(run, ref):
    assert run("head", ref, "b.txt") == (0, "".join(f"line {n}\n" for n in range(10)), "")
    assert run("head", ref, "b.txt", "-n", "2") == (0, "line 0\nline 1\n", "")
    assert run("head", ref, "b.txt", "--bytes", "6") == (0, "line 0", "")
    assert run("head", ref, "b.txt", "--bytes", "9999")[1].count("\n") == 100
    assert run("head", ref, "b.txt", "-n", "1", "-c", "1")[0] == 2
    assert run("head", ref, "b.txt", "-n", "0")[0] == 2
    assert run("head", ref, "c.txt")[0] == 3


def test_head_does_not_transfer_the_rest(run, server, home):
    """The connection ends after 200 kB of a larger file, which a read of the whole file would have to resume."""
    write(home, {"big.txt": "x" * 1000 + "\n" + "y\n" * 3_000_000})
    ref = f"{server.host}/t/d:v1"
    ocikit.push(ref, "big.txt")
    server.on("GET", ".*/blobs/.*", cut=200_000, times=None)
    assert run("head", ref, "big.txt", "-n", "2") == (0, "x" * 1000 + "\ny\n", "")
    assert len(server.seen("GET", ".*/blobs/.*")) == 1


def test_head_at_a_terminal_shows_no_escapes(typed, server, home):
    write(home, {"evil.txt": ANSI * 3})
    ocikit.push(f"{server.host}/t/d:v1", "evil.txt")
    code, output = typed("head", f"{server.host}/t/d:v1", "evil.txt", answers=[])
    assert code == 0 and "red" in output and "\x1b" not in output and "\u202e" not in output


def test_save_makes_parquet_of_csv_and_load_gives_it_back(run, ref, home):
    pytest.importorskip("pyarrow")
    code, out, _ = run("save", ref, "data/a.csv", "--dry-run")
    assert code == 0 and out.startswith("+ a.parquet  ") and "a.parquet" not in ocikit.inspect(ref).files
    code, out, _ = run("save", ref, "data/a.csv", "table", "--tag", "v2")
    assert (code, out) == (0, f"{ocikit.pin(ref)}\n")
    assert set(ocikit.inspect(ref).files) == {"a.csv", "b.txt", "table.parquet"}
    assert ocikit.pin(ref).digest == ocikit.pin(ref.replace("v1", "v2")).digest

    code, out, err = run("load", ref, "table")
    assert code == 0 and out.splitlines()[:2] == ["x  y", "0  0"] and len(out.splitlines()) == 11 and "10 rows" in err
    code, out, err = run("load", ref, "table", "--rows", "2", "--column", "y", "--json")
    assert (code, out, err) == (0, '{"y": 0}\n{"y": 1}\n', "")
    assert len(run("load", ref, "table", "--json")[1].splitlines()) == 100
    assert run("load", ref, "table", "--column", "z")[0] == 2

    for ending in ("csv", "tsv", "jsonl", "parquet", "arrow", "json"):
        assert run("load", ref, "table", "--output", f"t.{ending}") == (0, f"t.{ending}\n", "")
        copy = ref.replace("v1", ending)
        if ending != "json":
            assert run("save", copy, f"t.{ending}")[0] == 0
            assert ocikit.load(copy, "t", as_="arrow").to_pylist()[3] == {"x": 3, "y": 9}
    assert json.loads((home / "t.json").read_text())[3] == {"x": 3, "y": 9}
    assert (home / "t.csv").read_text().splitlines()[1] == "0,0"


def test_load_reads_tables_as_text(run, ref):
    pytest.importorskip("pyarrow")
    assert run("load", ref, "a.csv", "--rows", "1", "--column", "y", "--json") == (0, '{"y": 0}\n', "")
    assert run("load", ref, "a.csv", "--output", "a.parquet")[0] == 0
    code, _, err = run("load", ref, "a.csv", "--column", "z")
    assert code == 2 and "x, y" in err


def test_save_takes_json_from_stdin(run, ref, home):
    assert run("save", ref, "-", "metrics", stdin='{"loss": 0.5, "steps": [1, 2]}')[0] == 0
    assert ocikit.load(ref, "metrics") == {"loss": 0.5, "steps": [1, 2]}
    assert json.loads(run("load", ref, "metrics", "--json")[1]) == {"loss": 0.5, "steps": [1, 2]}
    assert json.loads(run("load", ref, "metrics")[1])["loss"] == 0.5
    assert run("load", ref, "metrics", "--output", "m.json")[0] == 0 and "loss" in (home / "m.json").read_text()
    code, _, err = run("load", ref, "metrics", "--output", "m.csv")
    assert code == 2 and ".json" in err and not (home / "m.csv").exists()
    code, _, err = run("save", ref, "-", "metrics", stdin="{")
    assert code == 6 and "not JSON" in err


def test_wrong_files_are_named_in_the_error(run, ref, home):
    write(home, {"a.txt": "x", "broken.json": "{", "broken.parquet": "PAR1"})
    code, _, err = run("save", ref, "missing.csv")
    assert code == 6 and "there is no file missing.csv" in err
    code, _, err = run("save", ref, "a.txt")
    assert code == 2 and ".parquet" in err
    for name in ("broken.json", "broken.parquet"):
        code, _, err = run("save", ref, name)
        assert code == 6 and name in err
    code, _, err = run("load", ref)
    assert code == 2 and "a.csv, b.txt" in err


def test_output_that_cannot_be_written_leaves_no_file(run, ref, home):
    pytest.importorskip("pyarrow")
    (home / "t.csv").write_text("mine")
    code, _, err = run("load", ref, "a.csv", "--output", "nowhere/t.csv")
    assert code == 6 and "nowhere" in err
    assert (home / "t.csv").read_text() == "mine" and not (home / "nowhere").exists()
