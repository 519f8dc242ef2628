"""Build the image that explore_an_image.ipynb looks into, so that the notebook needs neither docker nor a network."""

import gzip
import io
import tarfile
from importlib.resources import files

from ocikit import Descriptor, Digest, ImageConfig, Index, Manifest, Platform, Session
from ocikit.spec.config import History, RootFS

PROGRAM = b"import csv\nprint(sum(1 for _ in csv.reader(open('/srv/iris.csv'))) - 1, 'flowers')\n"


def push_image(reference: str) -> None:
    """Push an image with two platforms, and two layers for each: the second adds a file and deletes another.

    Args:
        reference: Repository and tag, such as "localhost:5000/flowers:v1".
    """
    name, _, tag = reference.rpartition(":")
    iris = (files("sklearn.datasets") / "data" / "iris.csv").read_bytes()
    with Session() as session:
        repository = session.repository(name, push=True)
        manifests = []
        for architecture in ("amd64", "arm64"):
            release = f"NAME=Tiny\nARCH={architecture}\n".encode()
            layers = [
                _layer({"etc/os-release": release, "srv/iris.csv": iris, "srv/notes.txt": b"draft\n"}),
                _layer({"srv/count.py": PROGRAM, "srv/.wh.notes.txt": b""}),  # .wh. marks a deletion
            ]
            config = ImageConfig(
                architecture=architecture,
                os="linux",
                config={
                    "Cmd": ["python", "/srv/count.py"],
                    "Env": ["PATH=/usr/bin", "LANG=C.UTF-8"],
                    "WorkingDir": "/srv",
                },
                rootfs=RootFS(diff_ids=tuple(diff_id for _, _, diff_id in layers)),
                history=(
                    History(created_by="COPY iris.csv notes.txt /srv/"),
                    History(created_by="COPY count.py /srv/ && rm notes.txt"),
                ),
            )
            for packed, descriptor, _ in layers:
                repository.push_bytes(descriptor, packed)
            repository.push_bytes(config.descriptor, config.raw)
            manifest = Manifest(config=config.descriptor, layers=tuple(descriptor for _, descriptor, _ in layers))
            repository.push_bytes(manifest.descriptor, manifest.raw)
            platform = Platform(os="linux", architecture=architecture)
            manifests.append(Descriptor.of(manifest.raw, manifest.media_type, platform=platform))
        index = Index(manifests=manifests)
        repository.push_document(index.descriptor, index.raw, tags=[tag])


def _layer(content: dict[str, bytes]) -> tuple[bytes, Descriptor, Digest]:
    """Return a gzipped tar of files, its descriptor, and the digest of the tar within."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for path, data in content.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    packed = gzip.compress(raw.getvalue(), mtime=0)
    return packed, Descriptor.of(packed, "application/vnd.oci.image.layer.v1.tar+gzip"), Digest.of(raw.getvalue())
