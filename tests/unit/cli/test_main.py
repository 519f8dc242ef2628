"""Command line: results on stdout, messages on stderr, exit codes."""

import json
import os
import pty
import signal
import subprocess
import sys

import ocikit
import pytest
from ocikit.cli import main
from ocikit.spec import media_types

from tests.support.home import ROOT, cli, tree, write

COMMANDS = ("quickstart", "pull", "push", "inspect", "tags", "catalog", "copy")
ANSI = "\x1b[31mred\x1b]0;owned\x07\u202etxt\r\n  second"


@pytest.fixture
def data(home):
    return write(home, {"data/a.csv": "x\n1\n", "data/b.bin": b"b" * 5000})


@pytest.fixture(params=["process", "function"])
def run(request, home, capfd):
    """Return a function that runs a command and returns exit code, stdout and stderr."""

    def process(*arguments):
        done = cli(*arguments)
        return done.returncode, done.stdout, done.stderr

    def function(*arguments):
        capfd.readouterr()
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as stop:
            code = stop.code
        return code, *capfd.readouterr()

    return process if request.param == "process" else function


def test_command_prints_only_its_result_to_stdout(run, data, server, home):
    ref = f"{server.host}/t/d:v1"
    code, out, err = run(
        "push",
        ref,
        "data",
        "--artifact-type",
        "application/vnd.example.set",
        "--annotation",
        "a=b=c",
        "--annotation",
        "d=",
    )
    assert code == 0 and out.startswith(f"{ref}@sha256:") and out.count("\n") == 1
    assert err.startswith("pushed 2 files, 5.0 kB in ") and err.count("\n") == 1
    pinned = out.strip()
    assert dict(ocikit.inspect(ref).annotations) == {"a": "b=c", "d": ""}

    code, out, err = run("pull", pinned, "out")
    assert (code, out) == (0, f"{home / 'out'}\n") and err.startswith("pulled 2 files")
    assert tree(home / "out") == tree(home / "out") | {"data/a.csv": b"x\n1\n"}

    code, out, err = run("pull", ref)
    assert code == 0 and (home / out.strip() / "data/a.csv").read_text() == "x\n1\n"

    code, out, err = run("inspect", ref)
    assert code == 0 and err == ""
    assert out.splitlines()[0] == f"{pinned}  application/vnd.example.set  5.0 kB"
    assert "a: b=c" in out and "data/a.csv" in out and "5.0 kB" in out
    code, out, err = run("inspect", ref, "--raw")
    assert ocikit.Digest.of(out.encode()) == pinned.partition("@")[2]

    code, out, err = run("copy", ref, "oci:store")
    assert (code, out.partition("@")[0]) == (0, "oci:store:v1") and err.startswith("copied 2 files")
    assert run("tags", "oci:store") == (0, "v1\n", "")
    assert run("copy", "oci:store:v1", f"{server.host}/t/e:v2", "--referrers")[0] == 0
    assert run("tags", f"{server.host}/t/e") == (0, "v2\n", "")
    assert run("catalog", server.host)[1].split() == sorted({name for name, _ in server.manifests})


def test_options_are_passed_to_session(run, data, server, home):
    ref = f"{server.host}/t/d:v1"
    assert run("push", ref, "data", "--archive", "tar+gzip", "--workers", "1", "--quiet")[0] == 0
    assert len(ocikit.inspect(ref).files) == 1
    assert run("push", ref, "data")[0] == 0
    assert run("push", f"{server.host}/t/d:about", "data/a.csv", "--subject", ref)[0] == 0
    assert len(ocikit.referrers(ref)) == 1
    assert run("pull", ref, "out", "--include", "*.csv")[0] == 0
    assert set(tree(home / "out")) == {"data/a.csv"}
    assert run("pull", ref, "some", "--exclude", "*.csv", "--insecure", server.host)[0] == 0
    assert set(tree(home / "some")) == {"data/b.bin"}
    (home / "out/data/a.csv").write_text("mine")
    code, out, err = run("pull", ref, "out")
    assert (code, out) == (7, "") and "data/a.csv" in err
    assert (home / "out/data/a.csv").read_text() == "mine"
    assert run("pull", ref, "out", "--force")[0] == 0
    code, _, err = run("pull", ref, "else", "--platform", "beos")
    assert code == 2 and "'beos' is not a platform" in err


def test_edit_changes_files_and_prints_the_reference(run, data, server, home):
    ref = f"{server.host}/t/d:v1"
    write(home, {"new.csv": "new", "b=c.txt": "equals"})
    before = ocikit.push(ref, "data", message="first")
    changes = ("--remove", "data/b.bin", "--rename", "data/a.csv=a.csv", "--replace", "a.csv=new.csv")
    more = ("--add", "new.csv=more/new.csv", "--add", "b=c.txt", "--annotate", "k=v", "--message", "second")
    code, out, err = run("edit", ref, *changes, *more, "--expect", before.digest)
    assert code == 0 and out.startswith(f"{ref}@sha256:") and err.startswith("edited: ")
    found = ocikit.inspect(ref)
    assert {name: file.read() for name, file in found.files.items()} == {
        "a.csv": b"new",
        "more/new.csv": b"new",
        "b=c.txt": b"equals",
    }
    assert found.annotations["k"] == "v"
    code, out, _ = run("edit", ref, "--remove", "more/", "--to", f"{server.host}/t/d:v2", "--tag", "v3")
    assert code == 0 and set(ocikit.inspect(f"{server.host}/t/d:v3").files) == {"a.csv", "b=c.txt"}


def test_edit_dry_run_prints_the_changes(run, data, server, home):
    ref = f"{server.host}/t/d:v1"
    before = ocikit.push(ref, "data")
    code, out, err = run("edit", ref, "--remove", "data/b.bin", "--rename", "data/a.csv=a.csv", "--dry-run")
    assert (code, err) == (0, "")
    assert out.splitlines() == ["- data/b.bin  5.0 kB", "→ data/a.csv → a.csv", "1 removed, 1 renamed"]
    assert ocikit.pin(ref).digest == before.digest


def test_edit_that_cannot_be_made_exits_with_the_kind_of_error(run, data, server, home):
    ref = f"{server.host}/t/d:v1"
    before = ocikit.push(ref, "data")
    ocikit.push(ref, "data/a.csv")
    for arguments, expected, words in (
        ((), 2, "--add PATH"),
        (("--remove", "none*"), 3, "no file that matches"),
        (("--replace", "none=data/a.csv"), 3, "no file 'none'"),
        (("--remove", "a.csv", "--expect", before.digest), 7, "names"),
    ):
        now = ocikit.pin(ref)
        code, out, err = run("edit", ref, *arguments)
        assert (code, out) == (expected, "") and words in err, err
        assert ocikit.pin(ref) == now


def test_history_is_printed_as_lines_or_json(run, data, server, home):
    ref = f"{server.host}/t/d:latest"
    for number in range(2):
        write(home, {"data/a.csv": f"{number}"})
        code, out, _ = run("push", ref, "data", "--version", "next", "--message", f"number {number}", "--input", ref)
        if not number:
            assert code == 3  # there is nothing to pin yet
            code, out, _ = run("push", ref, "data", "--version", "next", "--message", f"number {number}")
        assert code == 0 and out.startswith(f"{server.host}/t/d:v{number + 1}@sha256:")
    code, out, _ = run("history", ref)
    assert code == 0 and [line.rpartition("  ")[2] for line in out.splitlines()[:2]] == ["number 1", "number 0"]
    code, out, _ = run("history", ref, "--json", "--limit", "1")
    (version,) = json.loads(out)["versions"]
    assert version["message"] == "number 1" and version["inputs"][0].startswith(f"{ref}@sha256:")


def test_lineage_is_printed_as_a_tree_or_json(run, data, server, home):
    ref = f"{server.host}/t/model:v1"
    raw = ocikit.push(f"{server.host}/t/raw:v1", "data/a.csv")
    ocikit.push(ref, "data/b.bin", inputs=[raw])
    code, out, _ = run("lineage", ref)
    assert code == 0 and out.splitlines()[1].startswith(f"└── {server.host}/t/raw:v1")
    code, out, _ = run("lineage", ref, "--json", "--depth", "1")
    assert [artifact["depth"] for artifact in json.loads(out)["artifacts"]] == [0, 1]


def test_failure_prints_two_lines_and_exits_with_its_kind(run, server, home):
    for expected, *arguments in (
        (3, "pull", f"{server.host}/t/nope:v1"),
        (3, "push", f"{server.host}/t/d:v1", "nothere"),
        (2, "inspect", "Bad"),
        (3, "tags", "oci:nope"),
        (3, "copy", "oci:nope:v1", "oci:out"),
        (5, "quickstart", "--registry", "127.0.0.1:1"),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (expected, ""), (arguments, out)
        assert err.startswith("ocikit: ") and "Traceback" not in err and "\n  -> " in err, err
        assert len(err.splitlines()) == 2


def test_invalid_usage_exits_with_2(run, home):
    for arguments in (
        (),
        ("nope",),
        ("pull",),
        ("push", "x"),
        ("pull", "x", "--workers", "0"),
        ("pull", "x", "--workers", "many"),
        ("push", "x", "y", "--annotation", "novalue"),
        ("push", "x", "y", "--archive", "zip"),
        ("tags", "a", "b"),
    ):
        code, out, err = run(*arguments)
        assert code == 2, arguments
        assert "usage: ocikit" in (out + err).lower() and "Traceback" not in err


def test_help_and_version_are_printed(run):
    code, out, err = run("--help")
    assert code == 0 and err == "" and all(c in out for c in COMMANDS)
    assert run("--version")[1] == f"ocikit {ocikit.__version__}\n"
    for command in COMMANDS:
        code, out, _ = run(command, "-h")
        assert code == 0 and f"ocikit {command}" in out


def test_quickstart_starts_temporary_registry(run, home, monkeypatch):
    monkeypatch.setenv("OCIKIT_CACHE", str(home / "cache"))
    code, out, err = run("quickstart")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "serving",
        "pushed",
        "tags",
        "inspected",
        "attached",
        "referrers",
        "opened",
        "pulled",
        "compared",
    ]
    assert not list(home.iterdir())


def test_quickstart_uses_given_registry(run, server, home):
    code, out, err = run("quickstart", "--registry", server.host)
    assert (code, err) == (0, "") and "equal byte for byte" in out
    assert {name.split("/")[0] for name, _ in server.tags} == {"ocikit-quickstart"}


def test_quickstart_works_with_other_registries(registry, home):
    done = cli("quickstart", "--registry", registry.host)
    assert done.returncode == 0, done.stderr
    assert "equal byte for byte" in done.stdout


def test_closed_pipe_prints_no_traceback(home, server):
    for i in range(5000):
        server.manifest("t/d", b'{"schemaVersion":2}', f"v{i:04}")
    for _ in range(3):
        done = subprocess.run(
            f"{sys.executable} -m ocikit tags {server.host}/t/d | head -1",
            shell=True,
            text=True,
            capture_output=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            check=False,
            timeout=60,
        )
        assert (done.stdout, done.stderr) == ("v0000\n", "")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "ocikit", "tags", f"{server.host}/t/d"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
        timeout=60,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def push_hostile(server):
    """Push an artifact and an index with hostile text in every string."""
    server.blob("t/e", b"evil")
    digest = ocikit.Digest.of(b"evil")
    empty = {"mediaType": media_types.EMPTY, "digest": ocikit.Digest.of(b"{}"), "size": 2}
    layer = {
        "mediaType": ANSI,
        "digest": digest,
        "size": 4,
        "annotations": {"org.opencontainers.image.title": ANSI, ANSI: ANSI},
    }
    server.manifest(
        "t/e",
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "artifactType": ANSI,
            "config": empty,
            "layers": [layer, layer | {"annotations": {}}],
            "annotations": {ANSI: ANSI},
        },
        "v1",
    )
    child = server.manifest("t/e", {"schemaVersion": 2, "config": empty, "layers": []})
    platform = {"os": ANSI, "architecture": ANSI, "variant": ANSI}
    server.manifest(
        "t/e",
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_INDEX,
            "artifactType": ANSI,
            "annotations": {ANSI: ANSI},
            "manifests": [
                {
                    "mediaType": media_types.OCI_MANIFEST,
                    "digest": child,
                    "size": 10,
                    "platform": platform,
                    "annotations": {ANSI: ANSI},
                }
            ],
        },
        "index",
        media_type=media_types.OCI_INDEX,
    )


def is_clean(text):
    return not [
        c
        for c in text
        if (ord(c) < 32 and c != "\n")
        or 127 <= ord(c) < 160
        or c in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    ]


def test_hostile_registry_text_is_sanitized(run, server, home):
    push_hostile(server)
    server.tags["t/e", ANSI] = "x"
    server.guard = lambda request: None
    ref = f"{server.host}/t/e"
    warning = {"Warning": '299 - "careful \\u001b]0;x"'.replace("\\u001b", "\x1b")}
    server.on(".*", ".*", times=None, headers=warning)
    body = json.dumps({"errors": [{"code": "DENIED" + ANSI, "message": ANSI, "detail": {"x": ANSI}}]}).encode()
    for arguments, code in (
        (("inspect", f"{ref}:v1"), 0),
        (("inspect", f"{ref}:index"), 0),
        (("tags", ref), 0),
        (("pull", f"{ref}:v1", "out"), 6),
        (("pull", f"{ref}:index"), 3),
        (("pull", f"{ref}:nope"), 3),
    ):
        got, out, err = run(*arguments)
        assert got == code, (arguments, out, err)
        assert is_clean(out) and is_clean(err), (arguments, out, err)
    assert "red" in run("inspect", f"{ref}:v1")[1]
    server.on(".*", "/v2/t/.*", times=None, status=403, body=body, headers=warning)
    for arguments in (("inspect", f"{ref}:v1"), ("tags", ref), ("push", f"{ref}:v9", str(ROOT / "pyproject.toml"))):
        code, out, err = run(*arguments)
        assert code == 4 and is_clean(out) and is_clean(err), err


def run_in_terminal(*arguments):
    """Return exit code and output of a command in a terminal."""
    master, slave = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k != "OCIKIT_PROGRESS"} | {
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm",
        "COLUMNS": "100",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "ocikit", *arguments], stdin=slave, stdout=slave, stderr=slave, env=environment
    )
    os.close(slave)
    seen = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:
            break
        if not part:
            break
        seen += part
    os.close(master)
    return process.wait(30), seen.decode()


def test_terminal_shows_summary_and_result(server, data):
    ref = f"{server.host}/t/d:v1"
    code, seen = run_in_terminal("push", ref, "data")
    assert code == 0
    lines = [line.rpartition("\r")[2] for line in seen.replace("\r\n", "\n").splitlines()]
    lines = [line for line in lines if line.strip()]
    assert len(lines) == 2 and "pushed 2 files" in lines[0] and lines[1].startswith(ref), lines
    assert seen.count("@sha256:") == 1 and ref not in lines[0]
    code, seen = run_in_terminal("push", ref, "data", "--quiet")
    assert code == 0 and seen.count("\n") == 1, seen


def test_quiet_commands_write_only_the_result(run, data, server):
    ref = f"{server.host}/t/d:v1"
    for arguments in (
        ("push", ref, "data"),
        ("pull", ref, "out"),
        ("copy", ref, "oci:store"),
        ("edit", ref, "--remove", "data/b.bin"),
        ("validate", ref),
    ):
        code, _, err = run(*arguments, "--quiet")
        assert (code, err) == (0, ""), arguments
    code, out, err = run("pull", "-q", f"{server.host}/t/d:none")
    assert (code, out) == (3, "") and err.startswith("ocikit: ")


def test_dry_runs_change_nothing_and_print_the_plan(run, data, server, home):
    ref = f"{server.host}/t/d:v1"
    code, out, err = run("push", ref, "data", "--dry-run")
    assert (code, err) == (0, "") and "+ data/b.bin  5.0 kB\n" in out and " to move" in out.splitlines()[-1]
    assert not server.tags
    ocikit.push(ref, "data")
    code, out, err = run("pull", ref, "out", "--dry-run")
    assert (code, err) == (0, "")
    assert out.splitlines() == ["+ data/a.csv  4 B", "+ data/b.bin  5.0 kB", "5.0 kB to fetch to out"]
    assert not (home / "out").exists()
    ocikit.pull(ref, "out")
    write(home, {"out/data/a.csv": "mine"})
    code, out, _ = run("pull", ref, "out", "--dry-run")
    assert code == 0 and out.startswith("! data/a.csv  4 B\n") and "add --force" in out
    code, out, err = run("copy", ref, "oci:store", "--dry-run")
    assert (code, err) == (0, "") and "+ data/b.bin  5.0 kB\n" in out
    assert not (home / "store").exists()


def test_verify_repairs_registry_by_pushing_again(run, home):
    write(home, {"a.txt": "content", "b.txt": "other content"})
    with ocikit.serve(home / "store") as server:
        ref = f"{server.host}/t/d:v1"
        pushed = ocikit.push(ref, "a.txt", "b.txt")
        digest = pushed["a.txt"].digest
        code, out, err = run("verify", home / "store")
        assert (code, out) == (0, "") and err.startswith("4 blobs, ") and err.endswith(", hashed: all intact\n")
        path = home / "store" / "blobs" / "sha256" / digest.encoded
        path.chmod(0o644)
        path.write_bytes(b"CONTENT")
        code, out, err = run("verify", home / "store")
        assert (code, out) == (1, f"    digest  {digest}  t/d\n") and "--repair deletes" in err
        assert path.exists()
        code, out, err = run("verify", home / "store", "--repair")
        assert (code, out) == (1, f"    digest  {digest}  t/d\n") and "404" in err
        assert run("verify", home / "store")[1] == f"   missing  {digest}  t/d\n"
        ocikit.push(ref, "a.txt", "b.txt")
        assert run("verify", home / "store")[0] == 0
        assert ocikit.open(ref, "a.txt").read() == b"content"


def test_verify_of_other_folder_fails(run, home):
    code, out, err = run("verify", home)
    assert (code, out) == (3, "") and "is not the folder of a registry" in err
    assert not (home / "registry.db").exists()


def test_push_has_options_for_links_hidden_and_secret_files(run, data, server, home):
    write(home, {"data/.env": "x", "data/.git/config": "x"})
    (home / "data/link.csv").symlink_to(home / "elsewhere.csv")
    (home / "elsewhere.csv").write_text("1")
    ref = f"{server.host}/t/d:v1"
    code, out, err = run("push", ref, "data")
    assert (code, out) == (6, "") and "--links follow" in err
    code, out, err = run("push", ref, "data", "--links", "follow")
    assert (code, out) == (6, "") and "data/.env" in err and "--exclude data/.env" in err and "with --secrets" in err
    code, out, err = run("push", ref, "data", "--links", "skip", "--exclude", "data/.env")
    assert code == 0 and err.endswith("; left out: data/.git/\n")
    assert list(ocikit.inspect(ref).files) == ["data/a.csv", "data/b.bin"]
    code, out, err = run("push", ref, "data", "--links", "follow", "--secrets")
    assert code == 0 and "secret: data/.env" in err
    assert run("push", ref, "data", "--links", "follow", "--hidden", "--include", "data/.*")[0] == 0
    assert list(ocikit.inspect(ref).files) == ["data/.env", "data/.git/config"]


def test_inspect_shows_digest_of_unusable_title(run, home):
    layer = ocikit.Descriptor.of(b"1", "a/b", annotations={"org.opencontainers.image.title": "/home/ci/bad.bin"})
    manifest = ocikit.Manifest(config=ocikit.Descriptor.of(b"{}", media_types.EMPTY), layers=(layer,))
    ocikit.Layout(home / "store").push_bytes(manifest.descriptor, manifest.raw, tag="v1")
    code, out, err = run("inspect", "oci:store:v1")
    assert (code, err) == (0, "") and f"{layer.digest}  /home/ci/bad.bin" in out


# Streams


def shell(command, **options):
    """Run a command line of a shell, with `ocikit` for the command."""
    env = os.environ | {"PYTHONPATH": str(ROOT)} | options.pop("env", {})
    command = command.replace("ocikit ", f"{sys.executable} -m ocikit ")
    return subprocess.run(command, shell=True, capture_output=True, env=env, check=False, timeout=60, **options)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_text_outside_the_encoding_is_escaped(home, server, encoding):
    write(home, {"日本.txt": "x"})
    ref = f"{server.host}/t/d:v1"
    env = {"PYTHONIOENCODING": encoding}
    pushed = cli("push", ref, "日本.txt", env=env)
    assert pushed.returncode == 0
    escaped = "日本.txt" if encoding == "utf-8" else "\\u65e5\\u672c.txt"
    done = shell(f"ocikit inspect {ref}", env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode(encoding).rstrip().endswith(f"  {escaped}")
    pulled = shell(f"ocikit pull {ref} 'to 日本'", env=env)
    assert pulled.returncode == 0 and b"Traceback" not in pulled.stderr
    assert (home / "to 日本" / "日本.txt").exists()
    assert shell("ocikit --help", env=env).returncode == 0
    failed = shell("ocikit pull 'localhost:1/日本'", env=env)
    assert failed.returncode == 2 and b"Traceback" not in failed.stderr


@pytest.mark.parametrize(
    ("streams", "code"), [(">&-", 0), ("2>&-", 0), (">&- 2>&-", 0), (">/dev/full", 6), ("2>/dev/full", 0)]
)
def test_missing_or_full_stream_keeps_the_exit_code(home, server, streams, code):
    write(home, {"a.txt": "content"})
    ref = f"{server.host}/t/d:v1"
    for command, expected in (
        (f"push {ref} a.txt", code),
        (f"pull {ref} out", code),
        (f"inspect --raw {ref}", code),
        (f"inspect {server.host}/t/none:v1", 3),
        ("tags", 2),
    ):
        done = shell(f"ocikit {command} {streams}")
        assert (done.returncode, b"Traceback" in done.stderr) == (expected, False), (command, done)
    assert (home / "out" / "a.txt").read_bytes() == b"content"


def test_closed_pipe_of_stderr_keeps_the_exit_code(home, server):
    write(home, {"a.txt": "content"})
    ref = f"{server.host}/t/d:v1"
    for command, code in ((f"push {ref} a.txt", 0), (f"pull {ref} out", 0), (f"inspect {server.host}/t/none:v1", 3)):
        reader, writer = os.pipe()
        os.close(reader)
        arguments = [sys.executable, "-m", "ocikit", *command.split()]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=writer, env=env, check=False, timeout=60)
        os.close(writer)
        assert done.returncode == code


def test_describe_prints_text_or_json(run, server, home):
    write(home, {"data/a.csv": "a,b\n1,2\n", "data/b.npy": "nonsense", "one/c.json": "{}"})
    ref, one = f"{server.host}/t/d:v1", f"{server.host}/t/one:v1"
    ocikit.push(ref, "data/.")
    ocikit.push(one, "one/.")
    code, out, err = run("describe", ref)
    assert (code, err) == (1, "")
    assert "csv, 1 row, 2 columns" in out and "as npy failed" in out
    code, out, _ = run("describe", ref, "--json")
    assert code == 1 and json.loads(out)["files"]["a.csv"]["rows"] == 1
    code, out, _ = run("describe", ref, "a.csv")
    assert code == 0 and out.startswith("a.csv: csv, 1 row, 2 columns\n") and "a     integer" in out
    code, out, _ = run("describe", one, "--json", "--requests", "5")
    assert code == 0 and json.loads(out)["format"] == "json"
    code, out, err = run("describe", ref, "b.npy")
    assert (code, out) == (6, "") and "fetch the file again" in err


# Files, cards and the cache


def test_ls_lists_files_as_lines_or_json(run, data, server):
    ref = f"{server.host}/t/d:v1"
    artifact = ocikit.push(ref, "data")
    code, out, err = run("ls", ref)
    assert (code, err) == (0, "")
    assert [line.split()[-1] for line in out.splitlines()] == ["data/a.csv", "data/b.bin"]
    code, out, _ = run("ls", ref, "--json")
    listed = json.loads(out)
    assert (code, listed["size"], listed["reference"]) == (0, 5004, str(artifact.reference))
    assert listed["files"][1] == {
        "name": "data/b.bin",
        "size": 5000,
        "digest": artifact["data/b.bin"].digest,
        "media_type": "application/octet-stream",
    }


def test_cat_writes_the_exact_bytes(home, server):
    content = bytes(range(256)) * 1000 + b"\r\n\x1b[31m"
    ref = f"{server.host}/t/d:v1"
    ocikit.push(ref, {"a.bin": content})
    write(home, {f"many/{i}.txt": f"member {i}" for i in range(3)})
    ocikit.push(f"{server.host}/t/s:v1", "many", shards="zip")
    for name, expected in ((f"{ref} a.bin", content), (f"{server.host}/t/s:v1 many/2.txt", b"member 2")):
        command = [sys.executable, "-m", "ocikit", "cat", *name.split()]
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, timeout=60, check=True
        )
        assert (done.stdout, done.stderr) == (expected, b"")


def test_cat_writes_no_terminal_codes_to_a_terminal(home, server):
    ref = f"{server.host}/t/d:v1"
    ocikit.push(ref, {"a.txt": ANSI.encode() + b"\xff"})
    outer, inner = pty.openpty()
    command = [sys.executable, "-m", "ocikit", "cat", ref, "a.txt"]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=inner, timeout=60, check=True)
    os.close(inner)
    shown = os.read(outer, 10_000)
    os.close(outer)
    assert b"\x1b" not in shown and b"\x07" not in shown
    assert shown.startswith(b"redtxt\r\n  second")


def test_card_is_printed_as_text_or_json(run, home, server):
    ref = f"{server.host}/t/d:v1"
    ocikit.push(ref, {"a": b"1"}, card="---\nlicense: mit\ntags: [tiny]\n---\n# Waves \x1b[31m\n")
    code, out, err = run("card", ref)
    assert (code, out, err) == (0, "# Waves \n\n", "")
    code, out, _ = run("card", ref, "--json")
    assert code == 0 and json.loads(out) == {
        "title": "Waves \x1b[31m",
        "license": "mit",
        "tags": ["tiny"],
        "data": {"license": "mit", "tags": ["tiny"]},
        "text": "# Waves \x1b[31m\n",
        "ignored": "",
    }
    ocikit.push(ref, {"a": b"1"})
    code, out, err = run("card", ref)
    assert (code, out) == (3, "") and "has no README.md" in err and "its files: a" in err


def test_missing_file_and_index_are_errors(run, data, server):
    ref = f"{server.host}/t/d:v1"
    ocikit.push(ref, "data")
    code, out, err = run("cat", ref, "data/c.csv")
    assert (code, out) == (3, "") and "no file 'data/c.csv'" in err
    server.manifest(
        "t/d",
        {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": []},
        "index",
        media_type=media_types.OCI_INDEX,
    )
    for command in (("ls",), ("card",), ("cat", "x")):
        code, out, err = run(command[0], f"{server.host}/t/d:index", *command[1:])
        assert (code, out) == (6, "") and "is an index" in err


def test_cache_is_listed_verified_and_pruned(run, data, server):
    ref = f"{server.host}/t/d:v1"
    ocikit.push(ref, "data")
    ocikit.pull(ref)
    code, out, err = run("cache", "ls")
    assert (code, err) == (0, "") and f"{server.host}/t/d  v1" in out
    listed = json.loads(run("cache", "ls", "--json")[1])
    assert listed["repositories"][0]["name"] == f"{server.host}/t/d" and listed["blobs"] >= 2
    assert json.loads(run("cache", "verify", "--json")[1])["corrupt"] == []
    blob = next(path for path in ocikit.cache.root.rglob("*") if path.is_file() and path.stat().st_size == 5000)
    blob.chmod(0o644)
    blob.write_bytes(b"c" * 5000)
    code, out, _ = run("cache", "verify")
    assert code == 1 and out.startswith("sha256:") and "  digest  " in out
    assert run("cache", "verify", "--remove", "--json")[0] == 0
    assert json.loads(run("cache", "prune", "--json", "--older-than", "1", "--dry-run")[1]) == {
        "dry_run": True,
        "names": [],
        "size": 0,
    }
    code, out, _ = run("cache", "prune")
    assert code == 0 and out.endswith("freed\n")


def test_watch_pushes_until_ctrl_c(home, server):
    write(home, {"run/a.txt": "a"})
    ref = f"{server.host}/t/run:live"
    command = [sys.executable, "-m", "ocikit", "watch", "run", ref]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True, **pipes) as process:
        assert process.stderr.readline() == "watching run; Ctrl-C ends with a last push\n"
        write(home, {"run/b.txt": "b"})
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "") and out.startswith(f"{ref}@sha256:")
    assert set(ocikit.inspect(ref).files) == {"run/a.txt", "run/b.txt"}


def test_help_names_the_exit_codes(run):
    lines = {" ".join(line.split()) for line in run("--help")[1].splitlines()}
    assert {"0 success", "3 not found", "7 a conflict with other changes"} <= lines
