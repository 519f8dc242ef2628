"""Media types of files: the same on every Python."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import ocikit
import pytest
from ocikit.spec.media_types import FILE_TYPES, OCTET_STREAM, media_type_of

PYTHONS = ("3.11", "3.12", "3.13", "3.14")

#: Endings that data scientists push, and their types.
EXPECTED = {
    "README.md": "text/markdown",
    "a.arrow": "application/vnd.apache.arrow.file",
    "a.csv": "text/csv",
    "a.csv.gz": "application/gzip",
    "a.feather": "application/vnd.apache.arrow.file",
    "a.gguf": "application/x-gguf",
    "a.h5": "application/x-hdf5",
    "a.ipynb": "application/x-ipynb+json",
    "a.jsonl": "application/jsonl",
    "a.nc": "application/x-netcdf",
    "a.npy": "application/x-npy",
    "a.npz": "application/x-npz",
    "a.onnx": "application/x-onnx",
    "a.parquet": "application/vnd.apache.parquet",
    "a.pkl": "application/x-pickle",
    "a.pt": "application/x-pytorch",
    "a.safetensors": "application/x-safetensors",
    "a.tsv": "text/tab-separated-values",
    "a.webp": "image/webp",
    "a.yaml": "application/yaml",
    "a.yml": "application/yaml",
    "a.zarr": "application/vnd.zarr",
    "A.JPG": "image/jpeg",
    "Makefile": OCTET_STREAM,
    "dir.csv/model": OCTET_STREAM,
    ".csv": OCTET_STREAM,
    "a.": OCTET_STREAM,
    "a.unknown": OCTET_STREAM,
}

#: The digest of the manifest of all endings; another digest means that the same files give another one than before.
DIGEST = "sha256:9c4fc5cac6f30bfd01ce2727b17ab177d897b9774f71fb21e0c98f089c434b29"

SCRIPT = """
import os, sys
from ocikit.client.push import build_artifact
from ocikit.layers.pack import pack
from ocikit.spec.media_types import FILE_TYPES
os.chdir(sys.argv[1])
for suffix in FILE_TYPES:
    open(f"a.{suffix}", "w").close()
print(build_artifact(pack(["."])).manifest.digest)
"""


def find_python(version):
    """Return the path of a Python of this version, or None."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    installed = sorted(root.glob(f"versions/{version}.*/bin/python"))
    return str(installed[-1]) if installed else shutil.which(f"python{version}")


def test_files_of_data_scientists_have_their_types():
    assert {name: media_type_of(name) for name in EXPECTED} == EXPECTED


def test_table_of_types_is_valid():
    for suffix, media_type in FILE_TYPES.items():
        assert re.fullmatch(r"[a-z0-9]+", suffix)
        assert re.fullmatch(r"(application|audio|font|image|model|text|video)/[a-z0-9.+-]+", media_type)


def test_types_of_python_and_of_the_system_are_not_used():
    package = Path(ocikit.__file__).parent
    assert not [
        path for path in package.rglob("*.py") if re.search(r"^\s*(import|from) mimetypes", path.read_text(), re.M)
    ]


@pytest.mark.parametrize("version", PYTHONS)
def test_same_files_give_same_digest_on_every_python(version, tmp_path):
    python = find_python(version)
    if python is None:
        pytest.skip(f"Python {version} is missing: run `pyenv install {version}`")
    # The dependencies of a push are pure Python, so any version imports those of this one
    packages = [entry for entry in sys.path if "site-packages" in entry]
    path = os.pathsep.join([str(Path(ocikit.__file__).parents[1]), *packages])
    result = subprocess.run(
        [python, "-c", SCRIPT, tmp_path],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.stdout.strip(), result.stderr) == (DIGEST, "")
