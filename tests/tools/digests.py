"""Push the same files in several forms and print the digests: python -m tests.tools.digests.

Equal files have equal digests on every Python. The gate runs this on each Python of the machine and compares the outputs.
The content of gzip and zstd layers depends on their libraries, so that these forms are decompressed first.
"""

import gzip
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

import ocikit

#: The endings of files in data sets, models and their documents.
ENDINGS = (
    "README.md table.csv table.tsv table.parquet table.arrow table.feather rows.jsonl rows.json conf.yaml conf.toml page.html "
    "text.txt notes.ipynb code.py run.sh model.safetensors model.gguf model.onnx model.pt model.pkl a.npy a.npz a.h5 a.nc "
    "picture.png picture.jpg picture.webp picture.svg sound.wav sound.mp3 film.mp4 data.zip data.tar data.tar.gz data.zst "
    "none unknown.ending page.pdf code.js code.wasm table.xlsx database.sqlite font.woff2 log.xz book.epub"
).split()


def write(folder: Path) -> None:
    """Write the files."""
    (folder / "deep" / "er").mkdir(parents=True)
    for number, name in enumerate(ENDINGS):
        (folder / ("deep/er" if number % 3 == 0 else "")).joinpath(name).write_bytes(name.encode() * number)


def digests(folder: Path) -> dict[str, str]:
    """Push the files to a layout and return {form: digest}."""
    write(folder / "data")
    target = f"oci:{folder / 'layout'}"
    found = {}
    with ocikit.Session(cache=folder / "cache", progress=False) as session:
        for form in ("files", "tar"):
            archive = {} if form == "files" else {"archive": form}
            found[form] = str(session.push(f"{target}:{form}", folder / "data", **archive).digest)
        report = session.attach(
            f"{target}:files", folder / "data" / "none", artifact_type="application/vnd.example.report"
        )
        found["attached"] = str(report.digest)
        packed = session.push(f"{target}:gzip", folder / "data", archive="tar+gzip")
        [layer] = packed.manifest.layers
        blob = folder / "layout" / "blobs" / "sha256" / layer.digest.encoded
        found["tar+gzip, decompressed"] = f"sha256:{sha256(gzip.decompress(blob.read_bytes())).hexdigest()}"
    return found


def main() -> int:
    """Print the digests."""
    with tempfile.TemporaryDirectory(prefix="ocikit-digests-") as folder:
        for form, digest in digests(Path(folder)).items():
            print(f"{digest}  {form}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
