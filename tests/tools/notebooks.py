"""Notebook runner: `python -m tests.tools.notebooks` runs the files in notebooks/ and saves their outputs."""

import os
import shutil
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"

with warnings.catch_warnings():
    # Jupyter packages emit deprecation warnings about each other
    warnings.simplefilter("ignore")
    import nbclient
    import nbformat
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager


class Manager(AsyncKernelManager):
    """Kernel manager that starts the interpreter of the tests, regardless of installed kernels."""

    @property
    def kernel_spec(self) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")


def run(notebook: Any, folder: Path) -> Any:
    """Run a notebook in a folder, with an empty cache and without credentials; return it with outputs."""
    home = Path(tempfile.mkdtemp(prefix="ocikit-notebook-"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OCIKIT_")}
    environment |= {
        "OCIKIT_CACHE": str(home / "cache"),
        "HOME": str(home),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PYTHONPATH": str(FOLDER),  # modules next to the notebooks, which run in another folder
        "TMPDIR": str(home),
    }
    if "OCIKIT_REGISTRY" in os.environ:
        environment["OCIKIT_REGISTRY"] = os.environ["OCIKIT_REGISTRY"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Use a Unix socket: a TCP port is open to other users, and Jupyter warns about missing encryption
            manager = Manager(transport="ipc", connection_file=str(home / "kernel.json"))
            client = nbclient.NotebookClient(
                notebook, km=manager, timeout=120, resources={"metadata": {"path": str(folder)}}
            )
            client.owns_km = True  # shut the kernel down at the end
            client.execute(env=environment)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return notebook


def run_cells(sources: Iterable[str], folder: Path, *, tags: Iterable[str] = ()) -> list[Any]:
    """Run code as cells of a notebook, each with these tags; return the cells with their outputs."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    metadata = {"tags": list(tags)}
    cells = [nbformat.v4.new_code_cell(textwrap.dedent(source).strip(), metadata=metadata) for source in sources]
    return list(run(nbformat.v4.new_notebook(cells=cells), folder).cells)


def main() -> int:
    for path in sorted(FOLDER.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            run(notebook, Path(folder))
        for cell in notebook.cells:
            cell.metadata = {}
        notebook.metadata = {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"},
        }
        nbformat.write(notebook, path)
        print(path.relative_to(FOLDER.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
