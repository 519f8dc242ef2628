"""The fifteen commonest jobs of a registry's command line, with ocikit, oras, regctl and hf.

python -m tests.tools.jobs prints a table: what one types, lines of output, and exit codes on success and for a wrong name. Each
program has a home folder of its own and a registry of its own. hf has no registry: only what it does on this machine is run.
`--hf FILE` names the program, if it is not on the PATH.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ocikit
from attrs import frozen

from tests.support import peers
from tests.support.home import ROOT, write

USER, PASSWORD = "ada", "counting-waves"
REPORT = "application/vnd.example.report"
FILES = {"waves/sine.csv": "x,y\n0,0\n", "waves/cosine.csv": "x,y\n0,1\n", "report.json": '{"rows": 1}\n', "good": PASSWORD,
         "bad": "guess"}  # fmt: skip


@frozen
class Job:
    """The commands of each program; the wrong command has one wrong name."""

    name: str
    commands: dict[str, str]
    wrong: dict[str, str]


#: {host}, {repo} and {ref} are of the program's own registry; a line that needs several commands has `&&`.
JOBS = [
    Job(
        "log in",
        {
            "ocikit": "ocikit login {host} --username ada --password-stdin < good",
            "oras": "oras login {host} --username ada --password-stdin < good",
            "regctl": "regctl registry login {host} --user ada --pass-stdin < good",
            "hf": "",
        },
        {
            "ocikit": "ocikit login {host} --username ada --password-stdin < bad",
            "oras": "oras login {host} --username ada --password-stdin < bad",
            "regctl": "regctl registry login {host} --user ada --pass-stdin < bad",
        },
    ),
    Job(
        "push a folder",
        {
            "ocikit": "ocikit push {ref} waves",
            "oras": "oras push {ref} waves/sine.csv waves/cosine.csv",
            "regctl": "regctl artifact put --artifact-type application/vnd.example --file-title -m text/csv -f waves/sine.csv"
            " -m text/csv -f waves/cosine.csv {ref}",
        },
        {
            "ocikit": "ocikit push {ref} wave",
            "oras": "oras push {ref} wave/sine.csv",
            "regctl": "regctl artifact put --artifact-type application/vnd.example -f wave/sine.csv {ref}",
        },
    ),
    Job(
        "pull to a folder",
        {
            "ocikit": "ocikit pull {ref} out",
            "oras": "oras pull {ref} --output out",
            "regctl": "mkdir out && regctl artifact get {ref} --output out",
        },
        {
            "ocikit": "ocikit pull {repo}:v9 out",
            "oras": "oras pull {repo}:v9 --output out",
            "regctl": "regctl artifact get {repo}:v9 --output out",
        },
    ),
    Job(
        "list tags",
        {"ocikit": "ocikit tags {repo}", "oras": "oras repo tags {repo}", "regctl": "regctl tag ls {repo}"},
        {
            "ocikit": "ocikit tags {host}/none",
            "oras": "oras repo tags {host}/none",
            "regctl": "regctl tag ls {host}/none",
        },
    ),
    Job(
        "list files",
        {
            "ocikit": "ocikit ls {ref}",
            "oras": "oras manifest fetch {ref} --pretty",
            "regctl": "regctl manifest get {ref}",
        },
        {
            "ocikit": "ocikit ls {repo}:v9",
            "oras": "oras manifest fetch {repo}:v9 --pretty",
            "regctl": "regctl manifest get {repo}:v9",
        },
    ),
    Job(
        "print one file",
        {
            "ocikit": "ocikit cat {ref} waves/sine.csv",
            "oras": "oras manifest fetch {ref} | jq -r '.layers[0].digest' && oras blob fetch --output - {repo}@{blob}",
            "regctl": "regctl artifact get {ref} --file waves/sine.csv",
        },
        {
            "ocikit": "ocikit cat {ref} waves/sin.csv",
            "oras": "oras blob fetch --output - {repo}@{absent}",
            "regctl": "regctl artifact get {ref} --file waves/sin.csv",
        },
    ),
    Job(
        "print the manifest",
        {
            "ocikit": "ocikit inspect {ref} --raw",
            "oras": "oras manifest fetch {ref}",
            "regctl": "regctl manifest get {ref} --format raw-body",
        },
        {
            "ocikit": "ocikit inspect {repo}:v9 --raw",
            "oras": "oras manifest fetch {repo}:v9",
            "regctl": "regctl manifest get {repo}:v9 --format raw-body",
        },
    ),
    Job(
        "resolve a tag",
        {"ocikit": "ocikit resolve {ref}", "oras": "oras resolve {ref}", "regctl": "regctl image digest {ref}"},
        {
            "ocikit": "ocikit resolve {repo}:v9",
            "oras": "oras resolve {repo}:v9",
            "regctl": "regctl image digest {repo}:v9",
        },
    ),
    Job(
        "copy",
        {
            "ocikit": "ocikit copy {ref} {host}/ada/copy:v1",
            "oras": "oras cp {ref} {host}/ada/copy:v1",
            "regctl": "regctl image copy {ref} {host}/ada/copy:v1",
        },
        {
            "ocikit": "ocikit copy {repo}:v9 {host}/ada/copy:v9",
            "oras": "oras cp {repo}:v9 {host}/ada/copy:v9",
            "regctl": "regctl image copy {repo}:v9 {host}/ada/copy:v9",
        },
    ),
    Job(
        "tag",
        {
            "ocikit": "ocikit tag {ref} stable",
            "oras": "oras tag {ref} stable",
            "regctl": "regctl image copy {ref} {repo}:stable",
        },
        {
            "ocikit": "ocikit tag {repo}:v9 stable",
            "oras": "oras tag {repo}:v9 stable",
            "regctl": "regctl image copy {repo}:v9 {repo}:stable",
        },
    ),
    Job(
        "attach a report",
        {
            "ocikit": f"ocikit attach {{ref}} report.json --artifact-type {REPORT}",
            "oras": f"oras attach {{ref}} report.json --artifact-type {REPORT}",
            "regctl": f"regctl artifact put --subject {{ref}} -f report.json --artifact-type {REPORT}",
        },
        {
            "ocikit": f"ocikit attach {{repo}}:v9 report.json --artifact-type {REPORT}",
            "oras": f"oras attach {{repo}}:v9 report.json --artifact-type {REPORT}",
            "regctl": f"regctl artifact put --subject {{repo}}:v9 -f report.json --artifact-type {REPORT}",
        },
    ),
    Job(
        "show what is attached",
        {"ocikit": "ocikit referrers {ref}", "oras": "oras discover {ref}", "regctl": "regctl artifact tree {ref}"},
        {
            "ocikit": "ocikit referrers {repo}:v9",
            "oras": "oras discover {repo}:v9",
            "regctl": "regctl artifact tree {repo}:v9",
        },
    ),
    Job(
        "write JSON",
        {
            "ocikit": "ocikit referrers {ref} --json",
            "oras": "oras discover {ref} --format json",
            "regctl": "regctl artifact list {ref} --format body",
        },
        {
            "ocikit": "ocikit referrers {ref} --jsn",
            "oras": "oras discover {ref} --format jsn",
            "regctl": "regctl artifact list {ref} --fomat body",
        },
    ),
    Job(
        "delete a tag",
        {
            "ocikit": "ocikit delete {repo}:stable --yes",
            "oras": "",
            "regctl": "regctl tag rm {repo}:stable",
        },
        {
            "ocikit": "ocikit delete {repo}:v9 --yes",
            "oras": "oras manifest delete {repo}:v9 --force",
            "regctl": "regctl tag rm {repo}:v9",
        },
    ),
    Job(
        "prune the cache",
        {"ocikit": "ocikit cache prune", "oras": "", "regctl": "", "hf": "hf cache prune --yes"},
        {
            "ocikit": "ocikit cache prun",
            "oras": "oras cache prune",
            "regctl": "regctl cache prune",
            "hf": "hf cache prun",
        },
    ),
]

PROGRAMS = ("ocikit", "oras", "regctl", "hf")


def jobs_of(program: str, found: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the name of each job, and the cells of a program."""
    home = folder / program
    write(home, FILES)
    bin_folder = home / "bin"
    bin_folder.mkdir()
    starter = bin_folder / program
    starter.write_text(f'#!/bin/sh\nexec {found} "$@"\n')
    starter.chmod(0o755)
    env = {
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "LANG": "C.UTF-8",
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
    }
    with ocikit.serve(home / "registry", htpasswd={USER: PASSWORD}) as server:
        host = f"localhost:{server.host.rpartition(':')[2]}"
        repo = f"{host}/ada/waves"
        names = {
            "host": host,
            "repo": repo,
            "ref": f"{repo}:v1",
            "blob": ocikit.Digest.of(FILES["waves/sine.csv"].encode()),
            "absent": ocikit.Digest.of(b"absent"),
        }
        if program == "regctl":  # as its users do once for a registry without TLS
            subprocess.run(
                [starter, "registry", "set", "--tls", "disabled", host], env=env, check=False, capture_output=True
            )

        def run(command: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                ["timeout", "20", "bash", "-c", command.format_map(names)],
                env=env,
                cwd=home,
                capture_output=True,
                text=True,
                check=False,
                stdin=subprocess.DEVNULL,
            )

        for job in JOBS:
            again = job.commands[program] if job.name == "log in" else ""  # a program may store what was refused
            if not (command := job.commands.get(program, "")):
                yield (
                    job.name,
                    f"| {job.name} | {program} | none | | | | {wrong_cells(run, job.wrong.get(program, ''))} |",
                )
                continue
            done = run(command)
            shown = command.replace("{ref}", "REF").replace("{repo}", "REPO").replace("{host}", "HOST")
            shown = shown.replace("{blob}", "DIGEST").replace("|", "\\|")
            out, err = len(done.stdout.splitlines()), len(done.stderr.splitlines())
            wrong = wrong_cells(run, job.wrong.get(program, ""))
            if again:
                run(again)
            yield (
                job.name,
                f"| {job.name} | {program} | `{shown}` | {done.returncode} | {out} / {err} | {len(shlex.split(shown))} | {wrong} |",
            )


def wrong_cells(run, command: str) -> str:
    """Return the exit code and the words of a command with a wrong name."""
    if not command:
        return "| "
    done = run(command)
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    words = " ⏎ ".join(lines[:2]).replace("|", "\\|")
    return f"{done.returncode} | {len(lines)} lines: {words[:200]}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hf", default=shutil.which("hf"))
    options = parser.parse_args()
    found = {"ocikit": f"{shlex.quote(sys.executable)} -m ocikit", "hf": options.hf}
    found |= {name: str(path) for name in ("oras", "regctl") if (path := peers.where(name))}
    rows: dict[str, list[str]] = {job.name: [] for job in JOBS}
    with tempfile.TemporaryDirectory() as folder:
        for program in PROGRAMS:
            if not found.get(program):
                print(f"{program} is missing", file=sys.stderr)
                continue
            for name, row in jobs_of(program, found[program], Path(folder)):
                rows[name].append(row)
    print("| job | program | typed | exit | lines out / err | words | exit, wrong name | what it prints |")
    print("|---|---|---|---|---|---|---|---|")
    for lines in rows.values():
        print("\n".join(lines))


if __name__ == "__main__":
    main()
