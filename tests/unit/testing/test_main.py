"""`python -m ocikit.testing` runs a registry for tests of programs in any language."""

import signal
import subprocess
import sys
import urllib.request

import pytest
from ocikit.testing.__main__ import main

from tests.support.home import ROOT

SHOW = """
import os, sys, urllib.request
print(os.environ["OCI_REGISTRY"], os.environ.get("OCI_REGISTRY_USERNAME"), "DOCKER_CONFIG" in os.environ)
for _ in range(2):
    try:
        with urllib.request.urlopen(f"http://{os.environ['OCI_REGISTRY']}/v2/") as response:
            print(response.status)
    except urllib.error.HTTPError as error:
        print(error.code)
sys.exit(7)
"""


def run(capfd, *arguments):
    status = main(list(arguments))
    return status, *capfd.readouterr()


def test_command_gets_host_login_and_returns_its_exit_code(capfd, home):
    status, output, _ = run(capfd, "ecr", "--", sys.executable, "-c", SHOW)
    host, *rest = output.split()
    assert host.startswith("127.0.0.1:")
    assert (status, rest) == (7, ["AWS", "True", "401", "401"])


def test_options_script_faults(capfd, home, monkeypatch):
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    status, output, _ = run(capfd, "--fail", "GET", "/v2/", "503", "--", sys.executable, "-c", SHOW)
    assert (status, output.split()[1:]) == (7, ["None", "False", "503", "200"])


def test_description_is_printed(capfd):
    status, output, _ = run(capfd, "quay", "--describe")
    assert status == 0
    assert output.startswith("quay: Quay\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ecs", "--describe"], 'did you mean "ecr"'),
        (["--fail", "GET", "/v2/", "soon", "--", "true"], "soon"),
    ],
)
def test_wrong_arguments_are_usage_errors(capfd, home, arguments, said):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capfd.readouterr().err


def test_missing_command_has_the_exit_code_of_a_shell(capfd, home):
    status, _, errors = run(capfd, "--", "no-such-command")
    assert status == 127
    assert "no-such-command" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_registry_without_command_runs_until_a_signal(number, home):
    command = [sys.executable, "-m", "ocikit.testing", "basic", "--no-auth"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        host = process.stdout.readline().strip()
        with urllib.request.urlopen(f"http://{host}/v2/", timeout=30) as response:
            assert response.status == 200
        process.send_signal(number)
        assert process.wait(30) == 0
