"""Images of Pillow, and figures of matplotlib as PNG and SVG."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any, Final

from ocikit.client.artifact import File
from ocikit.data.codecs.format import Format, Part, invalid, is_a, refused
from ocikit.packages import package

_PIXELS: Final = 178_956_970  # of an image that is decoded; the limit at which Pillow warns of a decompression bomb
_DECODED: Final = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP")  # no format that runs another program, such as EPS


def _is_image(obj: Any) -> bool:
    return is_a(obj, "PIL.Image", "Image", exact=False)


def _dump_image(obj: Any, path: Path) -> None:
    image = package("PIL.Image", "an image")
    if getattr(obj, "n_frames", 1) > 1:
        raise refused("the image", f"it has {obj.n_frames} frames, and PNG keeps one", "save its file: Path(…)")
    obj.save(path, "PNG")
    with image.open(path, formats=["PNG"]) as back:
        same = back.mode == obj.mode and back.size == obj.size and back.tobytes() == obj.tobytes()
        if not same or back.getpalette() != obj.getpalette():
            raise refused(f"the image of mode {obj.mode}", "PNG would not keep it", 'convert it: .convert("RGB")')


def _load_image(file: File, _part: Part) -> Any:
    image = package("PIL.Image", "an image")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", image.DecompressionBombWarning)
        opened = image.open(file.path, formats=list(_DECODED))
    with opened:
        width, height = opened.size
        if width * height > _PIXELS:
            raise invalid(file, f"it has {width} x {height} pixels, which may be a decompression bomb")
        opened.load()
    return opened


def _is_figure(obj: Any) -> bool:
    return is_a(obj, "matplotlib.figure", "Figure", exact=False)


def _dump_figure(obj: Any, path: Path, name: str) -> None:
    matplotlib = package("matplotlib", "a figure")
    # The library writes its version and the date, and random names of parts
    with matplotlib.rc_context({"svg.hashsalt": "ocikit"}):
        obj.savefig(path, format=name, metadata={"Software": None} if name == "png" else {"Date": None})


def _load_svg(file: File, _part: Part) -> str:
    return file.read_bytes().decode()


_SIGNATURES: Final = (b"\x89PNG\r\n\x1a\n",)

#: The first one of an ending is its default.
FORMATS: Final = (
    Format(
        name="png",
        ending=".png",
        magic=_SIGNATURES,
        kind="PIL.Image",
        library="PIL",
        stem="image",
        matches=_is_image,
        dump=_dump_image,
        load=_load_image,
    ),
    *(
        Format(
            name=name,
            ending=f".{name}",
            magic=_SIGNATURES if name == "png" else (),
            kind="matplotlib.Figure",
            library="matplotlib",
            stem="figure",
            matches=_is_figure,
            dump=partial(_dump_figure, name=name),
            load=load,
            together=True,
        )
        for name, load in (("png", _load_image), ("svg", _load_svg))
    ),
)

#: Endings of pictures that are loaded, and not saved.
ENDINGS: Final = (".jpg", ".jpeg", ".gif", ".webp", ".tif", ".tiff", ".bmp")
