"""Run fuzz targets for a given time: `python -m tests.fuzz TARGET --seconds 300`.

TARGET is one of `targets`, or "all". With atheris (`pip install atheris`) the coverage of ocikit guides the input. Without
it, valid examples are damaged at random. Failing input is stored in a file, with the command that runs it again.
"""

import argparse
import hashlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz.damage import damaged, random_edits

#: Time limit of one example [seconds]. The slowest examples take one second.
_PATIENCE = 20


def _keep(name: str, data: bytes, folder: Path) -> Path:
    path = folder / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path


def _at_random(target, seconds: float, folder: Path, seed: int) -> int:
    """Damage valid examples and return the number of distinct failing places."""
    chance = random.Random(seed)
    found: dict[str, Path] = {}
    end, runs, slowest = time.monotonic() + seconds, 0, 0.0
    while time.monotonic() < end:
        data = damaged(chance.choice(target.seeds), random_edits(target, chance), text=target.text)
        begun = time.monotonic()
        try:
            target.run(data)
        except Exception as error:
            place = _place(error)
            if place not in found:
                found[place] = _keep(target.name, data, folder)
                traceback.print_exc()
                print(f"-> python -m tests.fuzz {target.name} --file {found[place]}")
        took = time.monotonic() - begun
        if took > max(slowest, 1.0):
            print(f"{target.name}: {took:.1f} s for {_keep(target.name + '-slow', data, folder)}")
        slowest = max(slowest, took)
        runs += 1
    print(f"{target.name}: {runs} examples, {len(found)} places failed, the slowest took {slowest:.2f} s")
    return len(found)


def _place(error: BaseException) -> str:
    """Return the place of an error, because many examples fail in the same way."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    ours = [f"{f.filename}:{f.lineno}" for f in frames if "/ocikit/" in f.filename]
    return f"{type(error).__name__} {last.filename}:{last.lineno} {ours[-1:]}"


def _guided(name: str, seconds: int, corpus: Path, folder: Path) -> int:
    """Run atheris in a child process, because it ends its process. Return 1 on a failure."""
    from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds:
        _keep("seed", seed, corpus)
    words = folder / f"{name}.dict"
    escaped = ("".join(map("\\x{:02x}".format, word)) for word in target.words if 0 < len(word) <= 64)
    words.write_text("".join(f'"{word}"\n' for word in escaped))
    command = [
        sys.executable, "-m", "tests.fuzz", name, "--instrumented", str(corpus), f"-dict={words}", f"-max_total_time={seconds}",
        f"-timeout={_PATIENCE}", f"-artifact_prefix={folder}/{name}-", "-max_len=8192", "-rss_limit_mb=2048", "-print_final_stats=1",
    ]  # fmt: skip
    ended = subprocess.run(command, timeout=seconds + 120, check=False)
    print(f"{name}: {'nothing found' if ended.returncode == 0 else f'see above, and {folder}/{name}-*'}")
    return int(ended.returncode != 0)


def _instrumented(name: str, arguments: list[str]) -> None:
    """Hand this process over to atheris."""
    import atheris

    with atheris.instrument_imports(include=["ocikit"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if chance.random() < 0.5:
            return atheris.Mutate(data, size)
        return damaged(data, random_edits(target, chance), text=target.text)[:size]

    atheris.Setup([sys.argv[0], *arguments], target.run, custom_mutator=mutate)
    atheris.Fuzz()


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--random", action="store_true", help="do without atheris")
    parser.add_argument("--seed", type=int, default=None, help="of chance, without atheris")
    parser.add_argument("--corpus", type=Path, help="a folder for what atheris learns; kept for the next time")
    parser.add_argument("--file", type=Path, help="run the target on this file, once")
    parser.add_argument("--instrumented", action="store_true", help=argparse.SUPPRESS)
    given, rest = parser.parse_known_args()
    if given.instrumented:
        _instrumented(given.target, rest)
    from tests.fuzz.targets import TARGETS

    names = list(TARGETS) if given.target == "all" else [given.target]
    if unknown := set(names) - set(TARGETS):
        parser.error(f"no target {', '.join(unknown)}; there are: all, {', '.join(TARGETS)}")
    if given.file:
        TARGETS[given.target].run(given.file.read_bytes())
        return 0
    folder = Path(tempfile.mkdtemp(prefix="ocikit-fuzz."))
    failed = 0
    for name in names:
        if find_spec("atheris") and not given.random:
            failed += _guided(name, given.seconds, (given.corpus or folder / "corpus") / name, folder)
        else:
            seed = random.SystemRandom().getrandbits(32) if given.seed is None else given.seed
            print(f"{name}: --seed {seed}")
            failed += _at_random(TARGETS[name], given.seconds, folder, seed)
    if not failed:
        shutil.rmtree(folder)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
