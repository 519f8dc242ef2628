"""Arrays of numpy, mappings of arrays, state dicts and sparse matrices."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

from ocikit import display
from ocikit.client.artifact import File
from ocikit.data.codecs.format import Format, Part, absent, invalid, is_a, refused
from ocikit.packages import package

#: Types of numbers that safetensors has. Arrays of others are stored in an npz.
_TENSOR_TYPES: Final = frozenset(
    [
        "bool",
        "uint8",
        "int8",
        "int16",
        "uint16",
        "float16",
        "bfloat16",
        "int32",
        "uint32",
        "float32",
        "float64",
        "int64",
        "uint64",
    ]
)
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # of members of a zip, so that the same arrays give the same bytes
_HEADER: Final = 100_000_000  # bytes of the header of safetensors; its own limit


def _numpy(what: str = "an array") -> Any:
    return package("numpy", what)


def _is_array(obj: Any) -> bool:
    return is_a(obj, "numpy", "ndarray", "memmap")


def check_array(obj: Any, what: str) -> Any:
    """Return an array that a file keeps.

    Args:
        obj: The array.
        what: Name of the array in the message.

    Raises:
        InvalidArgument: It has objects, which only a pickle would keep.
    """
    if obj.dtype.hasobject:
        raise refused(
            what,
            f"an array of the type {obj.dtype} has objects, which only a pickle keeps",
            'convert it: a.astype(float), a.astype("U"), or a list for JSON',
        )
    return obj


def _dump_npy(obj: Any, path: Path) -> None:
    np = _numpy()
    with path.open("wb") as file:
        np.lib.format.write_array(file, np.asarray(check_array(obj, "the array")), allow_pickle=False)


def _load_npy(file: File, part: Part) -> Any:
    if part.is_whole:
        with open(file.path, "rb") as stream:
            return _read_npy(file, stream, file.size)
    with file.open() as stream:
        return _read_npy(file, stream, file.size, part.rows)


def _read_npy(file: File, stream: IO[bytes], size: int, rows: int | None = None) -> Any:
    """Read an array, after its header was compared with the size of the content.

    Raises:
        InvalidDocument: The header lies about the size, or the array has objects.
    """
    np = _numpy()
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    if dtype.hasobject:
        raise invalid(file, f"an array of the type {dtype} has objects, and reading them runs code")
    start = stream.tell()
    if math.prod(shape) * dtype.itemsize != size - start:
        raise invalid(file, f"its header has {shape} of {dtype}, and the content has {size - start:,} bytes")
    if rows is not None and shape:
        if fortran:
            raise invalid(file, "its columns are stored one after the other, so rows= cannot select a part")
        shape = (max(0, min(rows, shape[0])), *shape[1:])
    count = math.prod(shape)
    if not dtype.itemsize:
        return np.zeros(shape, dtype)
    raw = np.empty(count * dtype.itemsize, np.uint8)
    _fill(memoryview(raw), stream)
    flat = raw.view(dtype)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _fill(buffer: memoryview, stream: IO[bytes]) -> None:
    position = 0
    while position < len(buffer):
        count = stream.readinto(buffer[position:])  # type: ignore[attr-defined]  # of every buffered stream
        if not count:
            raise EOFError("the content ends too early")
        position += count


# Mappings of arrays


def _is_mapping_of(obj: Any, module: str, *names: str, exact: bool = True) -> bool:
    return (
        isinstance(obj, Mapping)
        and not _is_sparse(obj)  # some are mappings
        and len(obj) > 0
        and all(isinstance(key, str) for key in obj)
        and all(is_a(value, module, *names, exact=exact) for value in obj.values())
    )


def _is_arrays(obj: Any) -> bool:
    return _is_mapping_of(obj, "numpy", "ndarray", "memmap")


def _are_tensors(obj: Any) -> bool:
    return _is_arrays(obj) and all(value.dtype.name in _TENSOR_TYPES and value.dtype.isnative for value in obj.values())


def _is_torch(obj: Any) -> bool:
    return _is_mapping_of(obj, "torch", "Tensor", exact=False)  # parameters are a subclass


def _dump_safetensors(obj: Any, path: Path) -> None:
    save_file = package("safetensors.numpy", "a mapping of arrays").save_file
    # The library writes the memory of an array as it is, so a transposed one would come back different, silently
    arrays = {key: value if value.flags.c_contiguous else value.copy(order="C") for key, value in obj.items()}
    save_file({key: _numpy().asarray(value) for key, value in arrays.items()}, path)


def _load_safetensors(file: File, part: Part) -> Any:
    opened = package("safetensors", "a file of tensors").safe_open
    _numpy("a file of tensors")
    return _tensors(file, part, partial(opened, framework="np"))


def _dump_torch(obj: Any, path: Path) -> None:
    save_file = package("safetensors.torch", "a state dict of torch").save_file
    seen: set[int] = set()
    tensors = {}
    for key, value in obj.items():
        tensor = value.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        # Tensors that share memory would be refused; each is stored
        tensors[key] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    save_file(tensors, path)


def _load_torch(file: File, part: Part) -> Any:
    package("torch", "a file of tensors for torch")
    opened = package("safetensors", "a file of tensors").safe_open
    return _tensors(file, part, partial(opened, framework="pt"))


def _tensors(file: File, part: Part, opened: Any) -> Any:
    """Return the tensors of a file by name.

    The library maps a file into memory. For some of the tensors it gets a sparse file with the header and their bytes, so
    that it checks all that it would check of the whole file.
    """
    if part.columns is None:
        with opened(file.path) as tensors:
            return {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118 - not a mapping
    with tempfile.TemporaryDirectory(prefix="ocikit-") as folder, file.open() as stream:
        path = Path(folder, "part.safetensors")
        length = int.from_bytes(stream.read(8), "little")
        if length > min(_HEADER, file.size - 8):
            raise invalid(file, f"its header would have {length:,} bytes")
        with path.open("wb") as sparse:
            sparse.write(length.to_bytes(8, "little") + stream.read(length))
            sparse.truncate(file.size)
            spans = _spans(file, path, part.columns, length)
            for (start, _), content in zip(spans, file.ranges(spans), strict=True):
                sparse.seek(start)
                sparse.write(content)
        with opened(path) as tensors:
            return {key: tensors.get_tensor(key) for key in part.columns}


def _spans(file: File, path: Path, names: tuple[str, ...], length: int) -> list[tuple[int, int]]:
    """Return offset and length of tensors, by the header that the library has accepted."""
    with path.open("rb") as sparse:
        sparse.seek(8)
        header = json.loads(sparse.read(length))
    spans = []
    for name in names:
        if name not in header or name == "__metadata__":
            raise absent(file, "tensor", name, [each for each in header if each != "__metadata__"])
        start, end = header[name]["data_offsets"]
        spans.append((8 + length + start, end - start))
    return spans


def write_zip(path: Path, members: Mapping[str, Any]) -> None:
    """Write a zip without compression; the same members give the same bytes on every machine.

    Args:
        path: The file to write.
        members: Functions that write to a stream, or paths of files, by name.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(members.items()):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3  # Unix on every system
            info.external_attr = 0o644 << 16
            with archive.open(info, "w", force_zip64=True) as member:
                if isinstance(content, Path):
                    with content.open("rb") as source:
                        shutil.copyfileobj(source, member, 1 << 20)
                else:
                    content(member)


def _dump_npz(obj: Any, path: Path) -> None:
    np = _numpy()

    def write(array: Any, member: Any) -> None:
        np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)

    members = {f"{key}.npy": partial(write, check_array(array, f"{key!r}")) for key, array in obj.items()}
    write_zip(path, members)


def _load_npz(file: File, part: Part) -> Any:
    with open(file.path, "rb") if part.is_whole else file.open() as stream, zipfile.ZipFile(stream) as archive:
        known = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        names = known if part.columns is None else part.columns
        arrays = {}
        for name in names:
            if (info := known.get(name)) is None:
                raise absent(file, "array", name, known)
            if not info.filename.endswith(".npy"):
                raise invalid(file, f"its member {display.quoted(info.filename)} is not an array")
            with archive.open(info) as member:
                arrays[name] = _read_npy(file, member, info.file_size)
        return arrays


# scipy


def _is_sparse(obj: Any) -> bool:
    return is_a(obj, "scipy.sparse", "spmatrix", "sparray", exact=False)


def _dump_sparse(obj: Any, path: Path) -> None:
    sparse = package("scipy.sparse", "a sparse matrix")
    if obj.format in {"dok", "lil"}:
        raise refused(f"the matrix of the format {obj.format}", "there is no file format for it", "use .tocsr()")
    check_array(obj, "the matrix")
    with tempfile.TemporaryDirectory(prefix="ocikit-") as folder:
        plain = Path(folder, "matrix.npz")
        sparse.save_npz(plain, obj, compressed=False)
        with zipfile.ZipFile(plain) as archive:
            # Again, because the library writes the time into the zip in some versions
            def write(name: str, member: Any) -> None:
                with archive.open(name) as source:
                    shutil.copyfileobj(source, member, 1 << 20)

            write_zip(path, {name: partial(write, name) for name in archive.namelist()})


def _load_sparse(file: File, _part: Part) -> Any:
    return package("scipy.sparse", "a sparse matrix").load_npz(file.path)


# The formats


def _formats() -> Iterator[Format]:
    npy: dict[str, Any] = {"name": "npy", "ending": ".npy", "magic": (b"\x93NUMPY",), "parts": frozenset({"rows"})}
    yield Format(**npy, kind="numpy.ndarray", library="numpy", matches=_is_array, dump=_dump_npy, load=_load_npy)
    columns = frozenset({"columns"})
    tensors: dict[str, Any] = {"name": "safetensors", "ending": ".safetensors", "stem": "weights", "parts": columns}
    yield Format(
        **tensors,
        kind="dict[str, numpy.ndarray]",
        library="numpy",
        matches=_are_tensors,
        dump=_dump_safetensors,
        load=_load_safetensors,
    )
    yield Format(
        **tensors,
        kind="dict[str, torch.Tensor]",
        library="torch",
        matches=_is_torch,
        dump=_dump_torch,
        load=_load_torch,
    )
    npz: dict[str, Any] = {"name": "npz", "ending": ".npz", "magic": (b"PK\x03\x04", b"PK\x05\x06"), "is_zip": True}
    yield Format(
        **npz,
        kind="dict[str, numpy.ndarray]",
        library="numpy",
        matches=_is_arrays,
        dump=_dump_npz,
        load=_load_npz,
        parts=columns,
    )
    yield Format(**npz, kind="scipy.sparse", library="scipy", matches=_is_sparse, dump=_dump_sparse, load=_load_sparse)


#: The first one of an ending is its default.
FORMATS: Final = tuple(_formats())
