"""Artifacts of model tools, built by hand in a layout on disk."""

import io
import json
import tarfile

import ocikit
from ocikit.spec.annotations import Annotations

#: The files that the tools packed which wrote `tests/unit/dialects/recorded`.
RECORDED = (
    "LICENSE",
    "README.md",
    "config.json",
    "data/train.csv",
    "model.safetensors",
    "predict.py",
    "tokenizer.json",
)
FILEPATH = "org.cncf.model.filepath"


def tar(files, mode="w"):
    """Return a tar of files; a value of None is a folder, and text is the target of a symlink."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def push(path, config_type, *layers, config=None, artifact_type=None, tag="v1", annotations=None, **manifest):
    """Push layers of (content, media type, annotations or keys) to a layout and return the reference."""
    layout = ocikit.Layout(path)
    raw = json.dumps(config if config is not None else {}).encode() if not isinstance(config, bytes) else config
    about = ocikit.Descriptor.of(raw, config_type)
    layout.push_bytes(about, raw)
    descriptors = []
    for content, media_type, *notes in layers:
        keys = notes[0] if notes else {}
        extra = {key: keys[key] for key in ("name",) if key in keys}
        notes = {key: value for key, value in keys.items() if key not in extra}
        layer = ocikit.Descriptor.of(content, media_type, annotations=Annotations(notes), extra=extra)
        layout.push_bytes(layer, content)
        descriptors.append(layer)
    document = ocikit.Manifest(
        config=about,
        layers=tuple(descriptors),
        artifact_type=artifact_type,
        annotations=Annotations(annotations or {}),
        **manifest,
    )
    layout.push_bytes(document.descriptor, document.raw, tag=tag)
    return f"oci:{path}:{tag}"


def files(folder):
    """Return the content of the files below a folder by relative path, without the record of pulls."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".ocikit" not in path.parts
    }
