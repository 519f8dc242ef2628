"""Formats of other libraries: registered by a call, or by an entry point of an installed package."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import ocikit
import pytest
from ocikit.data import formats
from ocikit.data.formats import register
from ocikit.errors import InvalidArgument, OcikitError
from ocikit.packages import package
from ocikit.spec.annotations import TYPE

from tests.support.home import ROOT, write


@dataclass
class Shape:
    points: list


def dump(shape, path):
    path.write_text(json.dumps(shape.points))


def load(path):
    return Shape(json.loads(path.read_text()))


@pytest.fixture
def ref(home, monkeypatch):
    monkeypatch.setattr(formats, "_registered", [])
    return "oci:store:v1"


def test_registered_format_saves_and_loads(ref):
    register(Shape, ".shape", dump, load, media_type="application/vnd.example.shape")
    saved = ocikit.save(ref, {"a": Shape([1]), "b.shape": Shape([2])})
    assert [(f.name, f.media_type, f.descriptor.annotations[TYPE]) for f in saved.files.values()] == [
        ("a.shape", "application/vnd.example.shape", f"{Shape.__module__}.Shape"),
        ("b.shape", "application/vnd.example.shape", f"{Shape.__module__}.Shape"),
    ]
    assert dict(ocikit.load(ref)) == {"a.shape": Shape([1]), "b.shape": Shape([2])}
    assert ocikit.load(ref, "a", as_=Shape) == Shape([1])


def test_format_registered_by_name_imports_nothing(ref):
    register("antigravity.Shape", ".fly", dump, load, media_type="application/vnd.example.fly")
    with pytest.raises(InvalidArgument):
        ocikit.save(ref, object())
    assert "antigravity" not in sys.modules


def test_registered_format_does_not_replace_built_in_ones(ref):
    register(Shape, ".json", dump, load, media_type="application/json")
    ocikit.save(ref, {"a.json": {"x": 1}, "b.json": Shape([2])})
    assert dict(ocikit.load(ref)) == {"a.json": {"x": 1}, "b.json": Shape([2])}
    write(Path(), {"c.json": "[3]"})
    ocikit.push("oci:store:v2", "c.json")
    assert ocikit.load("oci:store:v2") == [3]


@pytest.mark.parametrize("ending", ["shape", ".", ""])
def test_ending_without_a_dot_is_refused(ending):
    with pytest.raises(InvalidArgument):
        register(Shape, ending, dump, load, media_type="application/vnd.example.shape")


PLUGIN = """
from pathlib import Path

class Shape:
    def __init__(self, text):
        self.text = text

def add(register):
    register("plugin.Shape", ".shape", lambda shape, path: path.write_text(shape.text),
             lambda path: Shape(path.read_text()), media_type="application/vnd.example.shape")
"""


def test_entry_point_of_a_package_adds_a_format(home):
    write(
        home,
        {
            "site/plugin.py": PLUGIN,
            "site/broken.py": "raise RuntimeError('broken')",
            "site/plugin-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n",
            "site/plugin-1.0.dist-info/entry_points.txt": (
                "[ocikit.formats]\nbroken = broken:add\nshapes = plugin:add\n"
            ),
        },
    )
    code = """
import logging, ocikit
logging.disable()
import plugin
ocikit.save("oci:store:v1", plugin.Shape("square"), "a")
print(ocikit.load("oci:store:v1").text, list(ocikit.inspect("oci:store:v1").files))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**dict(__import__("os").environ), "PYTHONPATH": f"{home / 'site'}:{ROOT}"},
    )
    assert (done.stderr, done.stdout) == ("", "square ['a.shape']\n")


def test_missing_package_is_named_with_its_command(ref, monkeypatch):
    ocikit.save(ref, {"a": 1}, "x")
    write(Path(), {"w.safetensors": b"\x02\0\0\0\0\0\0\0{}"})
    ocikit.push("oci:store:v2", "w.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(OcikitError, match="needs safetensors") as error:
        ocikit.load("oci:store:v2")
    assert error.value.hint == "pip install 'safetensors>=0.4'"


def test_old_package_is_refused_with_the_version(monkeypatch):
    import pyarrow

    monkeypatch.setattr(pyarrow, "__version__", "14.0.0")
    with pytest.raises(OcikitError, match=r"pyarrow 15 or newer, and 14\.0\.0 is installed") as error:
        package("pyarrow.parquet", "a table")
    assert error.value.hint == "pip install 'ocikit[data]'"


def test_libraries_are_not_imported_by_objects_of_others(home):
    code = """
import sys, ocikit
ocikit.save("oci:store:v1", {"a.json": {"x": 1}, "b.txt": "x", "c.bin": b"x"})
assert dict(ocikit.load("oci:store:v1")) == {"a.json": {"x": 1}, "b.txt": "x", "c.bin": b"x"}
try:
    ocikit.save("oci:store:v1", object())
except ocikit.InvalidArgument:
    pass
heavy = "numpy pandas polars pyarrow scipy xarray zarr matplotlib PIL sklearn skops safetensors torch h5netcdf cattrs"
print([name for name in heavy.split() if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout) == ("", "['cattrs']\n")
