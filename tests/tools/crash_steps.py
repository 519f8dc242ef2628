"""End a process at each step of an operation and check the result: `python -m tests.tools.crash_steps upload`.

A step is a call from the interpreter to the disk: of a file, of a folder, of the database. The process ends before the
step, and in a second run after it, without clean-up. Each run prints a line of JSON.
"""

import io
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import sqlalchemy as sa
from ocikit.server.http.request import RequestBody
from ocikit.server.storage.base import ManifestRow
from ocikit.server.storage.files import file_storage
from ocikit.server.storage.gc import GRACE, gc
from ocikit.server.storage.verify import verify
from ocikit.spec.digest import Digest

#: Names of C functions, modules and objects that access the disk.
STEPS = {"open", "close", "fsync", "replace", "rename", "chmod", "unlink", "mkdir", "write", "truncate", "flock",
         "execute", "executemany", "commit", "rollback"}  # fmt: skip

CONTENT = os.urandom(1000)
DIGEST = Digest.of(CONTENT)
RAW = b'{"a manifest": true}'
ENTRY = ManifestRow(digest=Digest.of(RAW), media_type="application/json", size=len(RAW), children=(DIGEST,))


def body(content):
    return RequestBody(io.BytesIO(content), length=len(content))


def upload(storage, session):
    storage.uploads.append(session, body(CONTENT[:500]), offset=0)
    storage.finish(session, DIGEST, body(CONTENT[500:]), offset=500)


def put(storage, session):
    storage.put_manifest("a", ENTRY, io.BytesIO(RAW), ["v1", "v2"], require_children=True)


def delete(storage, session):
    storage.metadata.delete_manifest("a", ENTRY.digest)
    storage.metadata.remove_blob("a", DIGEST)


def sweep(storage, session):
    gc(storage, untagged=True)


#: The preparation and the interrupted operation.
OPERATIONS = {
    "upload": ((), upload),
    "put": ((upload,), put),
    "delete": ((upload, put), delete),
    "collect": ((upload, put, delete), sweep),
}


def age(storage):
    with storage.metadata.engine.begin() as connection:
        for table in ("content", "blobs", "manifests"):
            connection.execute(sa.text(f"UPDATE {table} SET touched = touched - {2 * GRACE}"))


def interrupted(folder, name, stop):
    """Run in a child process. Return the number of steps if it completed, or None if it ended at a step."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        storage = file_storage(folder)
        session = storage.uploads.create("a")
        steps = [0]

        def watch(frame, event, called):
            if event in {"c_call", "c_return"} and called.__name__ in STEPS:
                if steps[0] == stop:
                    os._exit(9)
                steps[0] += 1

        sys.setprofile(watch)
        OPERATIONS[name][1](storage, session)
        sys.setprofile(None)
        os.write(writing, str(steps[0]).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as result:
        said = result.read()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == (0 if said else 9)
    return int(said) if said else None


def look(folder, name):
    """Return the state after a restart, after a repetition, and after garbage collection of everything old."""
    storage = file_storage(folder, durable=False)
    try:
        found = {"sound": verify(storage).corrupt == ()}
        blob, manifest = storage.blob_size("a", DIGEST), storage.metadata.manifest("a", "v1")
        found["blob"], found["manifest"] = blob, manifest is not None
        found["both tags or none"] = manifest == storage.metadata.manifest("a", "v2")
        for each in (upload, put):
            each(storage, storage.uploads.create("a"))
        found["done again"] = (
            storage.blob_size("a", DIGEST) == len(CONTENT) and storage.metadata.manifest("a", "v1") is not None
        )
        gc(storage)
        age(storage)
        for path in Path(folder).rglob("*"):
            if path.parent.name == "uploads" or path.name.startswith("."):
                os.utime(path, (0, 0))
        gc(storage)
        found["sound again"] = verify(storage).corrupt == ()
        kept = sorted(path.name for path in Path(folder).rglob("*") if path.is_file() and path.parent != Path(folder))
        found["clean"] = kept == sorted([DIGEST.encoded, ENTRY.digest.encoded])
    finally:
        storage.close()
    return found


def prepare(folder, name):
    """Prepare the state before the operation."""
    storage = file_storage(folder, durable=False)
    for each in OPERATIONS[name][0]:
        each(storage, storage.uploads.create("a"))
    if name == "collect":
        age(storage)
    for session in (Path(folder) / "uploads").iterdir():
        session.unlink()
    storage.close()


def apart(work, *arguments):
    """Run a function in a child process, so that this process has no threads and connections at a fork."""
    pid = os.fork()
    if pid == 0:
        work(*arguments)
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def tell(folder, name, step, steps):
    print(json.dumps({"step": step, "of": steps, **look(folder, name)}))


def main(name, every=1):
    with tempfile.TemporaryDirectory(prefix="ocikit-crash-") as scratch:
        template = Path(scratch) / "template"
        apart(prepare, template, name)
        step, steps = 0, None
        while steps is None:
            folder = Path(scratch) / str(step)
            shutil.copytree(template, folder)
            steps = interrupted(folder, name, step)
            apart(tell, folder, name, step, steps)
            shutil.rmtree(folder)
            step += every


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
