"""What people type before they have read anything: each guess works, or its error has the next step.

python -m tests.tools.guesses prints a table of all of them.
"""

import ast
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import ocikit
from attrs import frozen

Outcome = Literal["works", "clear error", "bad"]

#: Files in the working folder of each guess.
FILES = {
    "penguins/README.md": "# Penguins\n",
    "penguins/data/sample.csv": "species,mass\nAdelie,3750\nGentoo,5000\n",
    "penguins/data/one.csv": "a\n1\n",
    "penguins/data/values.json": '{"rows": 3}\n',
}


@frozen
class Guess:
    """Code that a person guesses. Names: `ocikit`, `host`, `guarded`, `repo`, `r` (repo:v1), and `art` of it."""

    code: str
    #: An expression that is true of the value `it` of the last line, if the guess works.
    check: str = ""
    #: A part of the error, if the guess is answered with one. Parts separated by "|" are all in it.
    error: str = ""

    @property
    def expected(self) -> Outcome:
        return "clear error" if self.error else "works"


CSV = 'art["penguins/data/sample.csv"]'
PARQUET = 'art["table.parquet"]'

READING = [
    Guess('ocikit.pull(r, "x")', "(it.path / 'penguins/README.md').is_file()"),
    Guess('ocikit.pull(r, to=Path("x"))', "it.path == Path('x').absolute()"),
    Guess('ocikit.pull(r, to="~/x")', "it.path == Path.home() / 'x'"),
    Guess('ocikit.pull(r, "x", include="*.csv")', "not (it.path / 'penguins/README.md').exists()"),
    Guess('ocikit.pull(r, "x", include=["*.csv", "*.md"])', "(it.path / 'penguins/README.md').exists()"),
    Guess('ocikit.pull(r, "x", include="nothing*")', error="no file matches|the files are"),
    Guess('ocikit.pull(r, "x", workers=0)', error="workers=0|1 or more"),
    Guess('ocikit.pull(r, folder="x")', error="ocikit.pull() has no argument 'folder'; did you mean to=?"),
    Guess('ocikit.pull(r, dest="x")', error="did you mean to=?"),
    Guess('ocikit.pull(r, includes="*.csv")', error="did you mean include=?"),
    Guess('ocikit.pull(r, overwrite=True)', error="did you mean force=?"),
    Guess('ocikit.pull(r, zzz=1)', error="has no argument 'zzz'|include="),
    Guess('ocikit.pull(r, "y", "*.csv")', error="ocikit.pull() takes at most 2 positional arguments, but got 3|include="),
    Guess("ocikit.pull()", error="ocikit.pull() needs ref|help(ocikit.pull)"),
    Guess("ocikit.pull(art)", "it.digest == art.digest"),
    Guess("ocikit.pull(art.pull('x'), 'y')", "it.path.name == 'y'"),
    Guess("ocikit.pull(art.descriptor)", error="doesn't name a registry|write where it is"),
    Guess("ocikit.pull(art.digest)", error="is a digest without a repository|write where it is"),
    Guess("ocikit.pull(str(art))", "it.digest == art.digest"),
    Guess('ocikit.pull(r, progress="yes")', error="progress='yes'|True"),
    Guess('ocikit.pull(r + "x")', error="has no tag|nearest: v1"),
    Guess("ocikit.pull(repo)", error="has no tag 'latest'|newest: v1.10, v1.2, v1"),
    Guess('ocikit.pull(f"{host}/ada/pengins:v1")', error="has no repository ada/pengins|nearest: ada/penguins"),
    Guess('ocikit.pull("localhost:1/ada/penguins")', error="Connection refused|is running"),
    Guess('ocikit.pull(f"http://{r}")', error="is a URL|leave out the scheme"),
    Guess('ocikit.pull(f"docker://{r}")', error="is a URL|leave out the scheme"),
    Guess('ocikit.pull(f"oci://{r}")', error="is a URL|leave out oci://"),
    Guess('ocikit.pull(r.upper())', error="upper-case|lower-case"),
    Guess('ocikit.pull(repo + ":v 1")', error="is not a tag|a tag has"),
    Guess('ocikit.pull(repo + "@v1")', error="v1|sha256:"),
    Guess('ocikit.pull(repo + "@sha256:abc")', error="sha256:abc|64"),
    Guess("x = ocikit.pull(r, 'x')\n(x.path / 'penguins/README.md').write_text('mine')\nocikit.pull(r, 'x')", error="was edited|force=True"),
    Guess("ocikit.exists(r)", "it is True"),
    Guess("ocikit.exists(r + 'x')", "it is False"),
    Guess("ocikit.exists(repo)", "it is False"),
    Guess('ocikit.exists(f"{host}/nope/nothing:v1")', "it is False"),
    Guess('ocikit.exists("localhost:1/a/b:v1")', error="Connection refused"),
    Guess('ocikit.exists(f"{guarded}/a/b:v1")', error="ocikit.login"),
    Guess('ocikit.exists("oci:nowhere:v1")', "it is False"),
    Guess("ocikit.download(r, 'penguins/README.md')", "it.read_text() == '# Penguins\\n'"),
    Guess("ocikit.describe(art)", "len(it) > 1"),
    Guess("ocikit.size(r)", error="has no|inspect"),
    Guess("ocikit.ls(r)", error="has no attribute 'ls'|.files"),
    Guess("ocikit.cat(r)", error="has no attribute 'cat'|.read_bytes()"),
    Guess("ocikit.search('penguins')", error="has no attribute 'search'|ocikit.catalog(host)"),
    Guess("ocikit.upload(r, 'penguins')", error="has no|push"),
    Guess("ocikit.pul(r)", error="has no|pull"),
    Guess("ocikit.explore(art)"),
    Guess("ocikit.explore(host)"),
    Guess("ocikit.fs().cat(f'ocikit://{r}/penguins/README.md')", "it == b'# Penguins\\n'"),
]  # fmt: skip

FILES_AND_LIBRARIES = [
    Guess(f"import pandas as pd\npd.read_csv({CSV})", "len(it) == 2"),
    Guess(f"import pandas as pd\npd.read_parquet({PARQUET})", "len(it) == 3"),
    Guess(f"import pandas as pd\npd.read_parquet({PARQUET}.open())", "len(it) == 3"),
    Guess(f"import pandas as pd\npd.read_parquet({PARQUET}.path)", "len(it) == 3"),
    Guess(f"import pyarrow.parquet as pq\npq.read_table({PARQUET})", "it.num_rows == 3"),
    Guess(f"import pyarrow.dataset as ds\nds.dataset({PARQUET}.path).to_table()", "it.num_rows == 3"),
    Guess(f"import pyarrow.parquet as pq\npq.ParquetFile({PARQUET})", "it.metadata.num_rows == 3"),
    Guess(f"import polars as pl\npl.read_csv({CSV})", "len(it) == 2"),
    Guess(f"import polars as pl\npl.read_parquet({PARQUET})", "len(it) == 3"),
    Guess(f"import polars as pl\npl.scan_parquet({PARQUET}).collect()", "len(it) == 3"),
    Guess(f"import duckdb\nfile = {PARQUET}\nduckdb.sql(f\"from '{{file.path}}'\").fetchall()", "len(it) == 3"),
    Guess(f"import numpy as np\nnp.fromfile({CSV}, dtype='u1')", "len(it) == 37"),
    Guess(f"with open({CSV}) as file: text = file.read()\ntext", "it.startswith('species')"),
    Guess('import json\njson.load(art["penguins/data/values.json"].open())', "it == {'rows': 3}"),
    Guess('import json\njson.load(art["penguins/data/values.json"])', "it == {'rows': 3}"),
    Guess(f"import shutil\nshutil.copy({CSV}, 'copy.csv')", "Path(it).is_file()"),
    Guess(f"{CSV}.path", "it.is_file()"),
    Guess(f"{CSV}.read_bytes()", "len(it) == 37"),
    Guess(f"{CSV}.read_text()", "len(it) == 37"),
    Guess(f"{CSV}.open('r').read()", "len(it) == 37"),
    Guess(f"{CSV}.open('w')", error="read-only|save"),
    Guess(f"{CSV}.save('mine.csv')", "it.is_file()"),
    Guess(f"str({CSV})", "it == 'penguins/data/sample.csv'"),
    Guess(f"{CSV}.name, {CSV}.size, {CSV}.digest", "it[1] == 37"),
    Guess("Path(ocikit.pull(r, 'x'))", "it.is_dir()"),
    Guess("os.listdir(ocikit.pull(r))", "'penguins' in it"),
    Guess("Path(art)", error="isn't on disk|.pull(folder)"),
    Guess("len(art), list(art), art.size", "it[0] == 5"),
    Guess('"zzz" in art, "zzz" in art.files, "table.parquet" in art.files', "it == (False, False, True)"),
    Guess('art.files.get("zzz")', "it is None"),
    Guess("[f.name for f in art.files.values()]", "len(it) == 5"),
    Guess('art["sample.csv"]', error="no file 'sample.csv'|nearest: penguins/data/sample.csv"),
    Guess("art.digest, art.path", "it[1] is None"),
    Guess("art.name", "it == repo"),
    Guess("art.tag", "it == 'v1'"),
    Guess("art.created", "it is None"),
    Guess("art.manifest.config.digest"),
    Guess("art.tree()", error="plain files|artifact.files"),
    Guess("art.unpack('x')", error="plain files|.pull(folder)"),
    Guess("art == ocikit.inspect(r), len({art, ocikit.inspect(r)})", "it == (True, 1)"),
    Guess(f"{CSV} == ocikit.inspect(r)['penguins/data/sample.csv']", "it is True"),
    Guess("ocikit.pull(r, 'x') == ocikit.pull(r, 'x')", "it is True"),
    Guess("import pickle\npickle.loads(pickle.dumps(art)) == art", "it is True"),
    Guess("import copy\ncopy.deepcopy(art) == art", "it is True"),
    Guess(f"import pickle\npickle.loads(pickle.dumps({CSV})).read_bytes()", "len(it) == 37"),
    Guess("import pickle\npickle.loads(pickle.dumps(ocikit.Session()))"),
    Guess("import pickle\npickle.loads(pickle.dumps(ocikit.tags(repo))) == ocikit.tags(repo)", "it is True"),
    Guess("art._ipython_key_completions_()", "'table.parquet' in it"),
]  # fmt: skip

LISTING = [
    Guess("ocikit.tags(repo)[-5:]", "len(it) == 4"),
    Guess('"v1" in ocikit.tags(repo)', "it is True"),
    Guess("len(ocikit.tags(repo))", "it == 4"),
    Guess("import pandas as pd\npd.Series(ocikit.tags(repo))", "len(it) == 4"),
    Guess("ocikit.tags(repo).newest", "it == 'v1.10'"),
    Guess("ocikit.tags(repo).versions", "it == ['v1.10', 'v1.2', 'v1']"),
    Guess('ocikit.tags(repo, "v1.*")', "list(it) == ['v1.10', 'v1.2']"),
    Guess('ocikit.tags(repo, "zzz*")', "list(it) == []"),
    Guess("ocikit.tags(repo, 5)", error="a pattern is text|v1.*"),
    Guess("sorted(ocikit.tags(repo))", "len(it) == 4"),
    Guess("ocikit.tags(art)", "len(it) == 4"),
    Guess("ocikit.tags(host)", error="without a repository|ocikit.catalog"),
    Guess('ocikit.tags(f"{host}/ada/nope")', error="has no repository ada/nope|ocikit.catalog"),
    Guess('ocikit.tags(f"{host}/ada/pengins")', error="nearest: ada/penguins"),
    Guess("ocikit.catalog(host)", "'ada/penguins' in it"),
    Guess("ocikit.catalog(server)", "'ada/penguins' in it"),
    Guess("ocikit.catalog(f'{host}/ada')", error="is not a registry's host|write it like"),
    Guess("ocikit.catalog(guarded)", error="ocikit.login("),
    Guess("ocikit.referrers(r)", "len(it) == 1"),
    Guess("ocikit.referrers(art)", "len(it) == 1"),
    Guess("ocikit.referrers(r, 5)", error="artifact_type=5|media type"),
    Guess("ocikit.inspect(ocikit.referrers(r)[0])", "it.kind == 'application/vnd.example.report'"),
    Guess("ocikit.pull(ocikit.referrers(r)[0])", "it.path.is_dir()"),
    Guess("ocikit.inspect(art)", "it == art"),
    Guess("ocikit.pin(art)", "it == art.reference"),
    Guess("ocikit.validate(art)"),
    Guess("ocikit.history(art)"),
    Guess("ocikit.lineage(art)"),
    Guess("ocikit.diff(art, art)", "not it"),
    Guess('ocikit.load(art, "table")', "len(it) == 3"),
]  # fmt: skip

WRITING = [
    Guess('ocikit.push(f"{repo}:w", Path("penguins"))', "len(it) == 4"),
    Guess('ocikit.push(f"{repo}:w", "penguins/README.md", tags="w2")', "it.tag == 'w'"),
    Guess('ocikit.push("penguins/", f"{repo}:w")', error="the reference comes first"),
    Guess('ocikit.push("penguins", f"{repo}:w")', error="the reference comes first"),
    Guess('ocikit.push(f"{repo}:w")', error="nothing to push|push("),
    Guess('ocikit.push(f"{repo}:w", ["penguins"])', error="unpack the list"),
    Guess('ocikit.push(f"{repo}:w", "penguins", annotations={"rows": 3})', error="is not text|str("),
    Guess('ocikit.push(f"{repo}:w", "penguins", annotations="x")', error="annotations|annotations={"),
    Guess('ocikit.push(f"{repo}:w", "penguins", tags=5)', error="tags=5|tags=["),
    Guess('ocikit.push(f"{repo}:w", "penguins", tags=[5])', error="tags=[5]|tags=["),
    Guess('ocikit.push(f"{repo}:w", "penguins", tag="x")', error="did you mean tags=?"),
    Guess('ocikit.push(f"{repo}:w", "penguins", archive="zip")', error="archive='zip'|tar"),
    Guess('ocikit.push(f"{repo}:w", 5)', error="a path cannot be of type int|pass a str"),
    Guess('ocikit.push(f"{repo}:w", "~/home.txt")', "len(it) == 1"),
    Guess('ocikit.push(f"{repo}:w", "penguins/data/*.csv")', error="include="),
    Guess('ocikit.push(f"{repo}:w", "*.csv")', error="include="),
    Guess('ocikit.push(f"{repo}:w", "pengiuns")', error="pengiuns|penguins"),
    Guess('ocikit.push(f"{repo}:w", {"a.txt": b"x"})', "it['a.txt'].read_bytes() == b'x'"),
    Guess('ocikit.push(f"{repo}:w", {"a.csv": "penguins/data/one.csv"})', "it['a.csv'].read_bytes() == b'a\\n1\\n'"),
    Guess('ocikit.push(f"{repo}:w", b"x")', error="a path cannot be of type bytes|with its name"),
    Guess('import io\nocikit.push(f"{repo}:w", io.BytesIO(b"x"))', error="a path cannot be of type BytesIO|with its name"),
    Guess('import io\nocikit.push(f"{repo}:w", {"x.bin": io.BytesIO(b"x")})', "it['x.bin'].read_bytes() == b'x'"),
    Guess('with open("penguins/README.md", "rb") as file: it = ocikit.push(f"{repo}:w", {"x": file})\nit', "it['x'].size == 11"),
    Guess('import pandas as pd\nocikit.push(f"{repo}:w", pd.DataFrame({"a": [1]}))', error="a path cannot be of type DataFrame|ocikit.save("),
    Guess('import pandas as pd\nocikit.push(f"{repo}:w", {"t.csv": pd.DataFrame({"a": [1]})})', error="DataFrame|ocikit.save("),
    Guess('ocikit.push(f"{repo}:w", art)', error="is an artifact|ocikit.copy"),
    Guess(f'ocikit.push(f"{{repo}}:w", {CSV})', "len(it) == 1"),
    Guess('ocikit.push(f"{repo}:w", "penguins", dry_run=True).plan'),
    Guess('ocikit.copy(r, "oci:backup")', "it.digest == art.digest"),
    Guess('ocikit.copy(art, "oci:backup")', "it.digest == art.digest"),
    Guess('ocikit.copy(r, f"{repo}:copied")', "it.digest == art.digest"),
    Guess('ocikit.copy(r, "backup")', error="official image|'oci:backup'"),
    Guess('ocikit.push("penguins-v1", "penguins")', error="official image|'oci:penguins-v1'"),
    Guess("ocikit.attach(r, artifact_type='application/vnd.example.note', annotations={'a': 'b'})"),
    Guess("ocikit.attach(art, 'penguins/README.md', artifact_type='application/vnd.example.note')"),
    Guess("ocikit.attach(r, artifact_type='report')", error="is not a media type|application/vnd."),
    Guess('ocikit.tag(r, "w3")', "it.tag == 'v1'"),
    Guess('ocikit.tag(art, "w3")', "it.digest == art.digest"),
    Guess('ocikit.tag(r, ["a", "b"])', error="unpack the list"),
    Guess("ocikit.tag(r)", error="no tag to give|tag("),
    Guess('ocikit.tag(r, "w4", dry_run=True)', "it.tags == ('w4',)"),
    Guess("ocikit.delete(repo)", error="neither tag nor digest|…:tag"),
    Guess("ocikit.delete(r, dry_run=True)", "it.digest == art.digest"),
    Guess('ocikit.copy(r, f"{repo}:old")\nocikit.delete(f"{repo}:old")', "it is None"),
    Guess('ocikit.save(f"{repo}:saved", {"a": 1})'),
]  # fmt: skip

REST = [
    Guess('ocikit.Session(cache="~/x").cache.root', "it == Path.home() / 'x'"),
    Guess('ocikit.Session(credentials="ada:pw")', error="credentials|(\"user\", \"password\")"),
    Guess('ocikit.Session(workers="x")', error="workers='x'|1 or more"),
    Guess('ocikit.Session(user="ada")', error="Session() has no argument 'user'; did you mean credentials=?"),
    Guess('ocikit.Session(progress="yes")', error="progress='yes'"),
    Guess("ocikit.Session().pull(r, folder='x')", error="Session.pull() has no argument 'folder'; did you mean to=?"),
    Guess("ocikit.Session().pull(r, 'y', '*.csv')", error="Session.pull() takes at most 2 positional arguments, but got 3"),
    Guess("art.pull(folder='x')", error="Artifact.pull() has no argument 'folder'; did you mean to=?"),
    Guess("ocikit.Reference('ghcr.io/ada/penguins:v1')", "it.tag == 'v1'"),
    Guess("ocikit.Reference('ghcr.io/Ada:v1')", error="lower-case"),
    Guess("ocikit.Digest('sha256:abc')", error="64"),
    Guess("ocikit.serve(port='x')", error="port='x'|"),
    Guess("ocikit.ServerOptions(worker=2)", error="ServerOptions() has no argument 'worker'; did you mean workers=?"),
    Guess("ocikit.edit(r, msg='x')", error="ocikit.edit() has no argument 'msg'; did you mean message=?"),
    Guess("ocikit.copy(src=r, dst='oci:x')", error="ocikit.copy() has no argument 'src'; did you mean source=?"),
    Guess(f"{CSV}.save(to='x')", error="File.save() has no argument 'to'; did you mean path=?"),
    Guess(f"{CSV}.save()", error="File.save() needs path"),
    Guess(f"{CSV}.download('x')", error="File.download() takes at most 0 positional arguments"),
    Guess("ocikit.serve(Port=5)", error="has no argument 'Port'; did you mean port=?"),
    Guess("ocikit.cache.prune(older_than='7d')", "it.bytes == 0"),
    Guess("ocikit.cache.prune(older_than='soon')", error="older_than='soon'|7d"),
    Guess("ocikit.cache.prune(dry_run=True)", "it.bytes == 0"),
    Guess("ocikit.cache.prune(dry_run=False)", "it.bytes == 0"),
    Guess("ocikit.cache.scan()"),
    Guess('ocikit.login(host, "u", "p")', "'were not checked' in it"),
    Guess('ocikit.login(guarded, "ada", "wrong")', error="rejects the credentials|check user and password"),
    Guess('ocikit.login(guarded, "ada", "lovelace")'),
    Guess("ocikit.login(host)", error="cannot be prompted|os.environ"),
    Guess("ocikit.ping(host)", "bool(it)"),
    Guess("ocikit.auth.explain(host)"),
    Guess("ocikit.Layout('somewhere')"),
]  # fmt: skip

GUESSES = [*READING, *FILES_AND_LIBRARIES, *LISTING, *WRITING, *REST]


@frozen
class Result:
    """What became of a guess."""

    guess: Guess
    outcome: Outcome
    text: str


@contextmanager
def registries() -> Iterator[dict[str, Any]]:
    """Run an open and a guarded registry with a data set, and yield the names that guesses use."""
    with (
        tempfile.TemporaryDirectory() as name,
        ocikit.serve() as server,
        ocikit.serve(htpasswd={"ada": "lovelace"}) as guarded,
        ocikit.Session(progress=False, cache=Path(name, "cache")) as session,
    ):
        folder = Path(name)
        write_files(folder)
        repo = f"{server.host}/ada/penguins"
        table = {"table.parquet": _parquet()}
        for tag in ("v1.10", "v1.2", "v1", "main"):
            session.push(f"{repo}:{tag}", f"{folder}/penguins", table)
        session.attach(f"{repo}:v1", artifact_type="application/vnd.example.report", annotations={"auc": "0.93"})
        yield {"server": server, "host": server.host, "guarded": guarded.host, "repo": repo, "r": f"{repo}:v1"}


def _parquet() -> bytes:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table({"k": [1, 2, 3]}), buffer)
    return buffer.getvalue()


def write_files(folder: Path) -> None:
    """Write the files of a guess to its working folder."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def run(guess: Guess, names: Mapping[str, Any]) -> Result:
    """Run a guess in the working folder, and compare its outcome with the expected one."""
    scope = {"ocikit": ocikit, "Path": Path, "os": os, **names}
    try:
        scope["art"] = ocikit.inspect(names["r"])
        value = _value(guess.code, scope)
        is_right = not guess.check or eval(guess.check, {**scope, "it": value})
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        is_ours = isinstance(error, ocikit.OcikitError | TypeError | AttributeError)
        is_clear = is_ours and guess.error and all(part in text for part in guess.error.split("|"))
        return Result(guess, "clear error" if is_clear else "bad", text)
    if guess.error:
        return Result(guess, "bad", f"no error: {value!r}")
    if not is_right:
        return Result(guess, "bad", f"not so: {guess.check}: {value!r}")
    return Result(guess, "works", repr(value))


def _value(code: str, scope: dict[str, Any]) -> Any:
    """Return the value of the last line, which is an expression."""
    body = ast.parse(code).body
    last = body.pop()
    assert isinstance(last, ast.Expr)
    exec(compile(ast.Module(body, []), "<guess>", "exec"), scope)
    return eval(compile(ast.Expression(last.value), "<guess>", "eval"), scope)


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        for variable, folder in {"HOME": "", "DOCKER_CONFIG": ".docker", "OCIKIT_CACHE": "cache"}.items():
            os.environ[variable] = str(Path(name, folder))
        os.environ["OCIKIT_PROGRESS"] = "none"
        Path(name, "home.txt").write_text("x")
        with registries() as names:
            results = []
            for number, guess in enumerate(GUESSES):
                work = Path(name, f"work{number}")
                write_files(work)
                os.chdir(work)
                results.append(run(guess, names))
            os.chdir("/")
    print("| guess | outcome | answer |\n|---|---|---|")
    for result in results:
        code, text = (t.replace("|", "\\|").replace("\n", "; ") for t in (result.guess.code, result.text[:300]))
        print(f"| `{code}` | {result.outcome} | {text} |")
    counts = {kind: sum(r.outcome == kind for r in results) for kind in ("works", "clear error", "bad")}
    print("\n" + ", ".join(f"{count} {kind}" for kind, count in counts.items()))
    return counts["bad"]


if __name__ == "__main__":
    sys.exit(main())
