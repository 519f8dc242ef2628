"""Words that the writing guide forbids, with their places: python -m tests.tools.words [FOLDER OR FILE]...

The guide is in CONTRIBUTING.md. The check covers docstrings, comments, messages (strings of more than one word) and the
names of tests. Without arguments it covers the package, the tests, the benchmarks and the documents.
"""

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: Folders and files that the guide holds for.
PLACES = ["ocikit", "tests", "benchmarks", ".ci", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "notebooks"]

#: Each forbidden word, as a pattern, and what to write instead.
FORBIDDEN = {
    # Every clause has a subject, and the subject is a thing of the program
    r"whoever|whatever|whichever|somebody|someone|nobody|no one|everybody|everyone|anybody|anyone": "the caller, client, process or registry",
    r"strangers?": "an anonymous client, an untrusted server, another host",
    # No personification
    r"believe[sd]?|believing|mistrust\w*|distrust\w*": "use, verify, skip, disable",
    r"left alone|leaves? alone|let alone|spoken to|speaks? to|talks? to": "skip, ignore, connect to",
    r"says|tells|lies to|thinks|knows better": "return, report, contain, name",
    # Plain words
    r"shall|ought": "must",
    r"for ever|forever": "indefinitely",
    r"near by|nearby": "on the same host",
    r"in vain": "unnecessarily",
    r"by half|by halves": "partially",
    r"beside|besides": "in the same folder, next to",
    r"under way|underway": "in progress",
    r"told": "reported",
    r"gone": "deleted, closed",
    r"wish(es|ed)?": "requested",
    r"made of": "built from",
    r"in the guise of|likelier|dear|oneself|of one's own|of ones own|one's own": "plain words",
    r"that (?:is|are) none|(?<!there )(?<!there\'s )(?:is|are) no (?!such|error|longer|more|larger|smaller|older|newer|further)": "invalid, not a",
}  # fmt: skip

#: Sentences that may hold a forbidden word: part of the sentence, and the reason.
ALLOWED = {
    "tests.tools.words": "this list",
}

_PATTERNS = [(re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE), instead) for pattern, instead in FORBIDDEN.items()]


def _python(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the prose of a Python file: line, text."""
    source = path.read_text()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("#: ")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            for offset, line in enumerate(node.value.splitlines()):
                if not line.lstrip().startswith((">>>", "...")):
                    yield node.lineno + offset, line
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.lineno, node.name.replace("_", " ")


def _text(path: Path) -> Iterator[tuple[int, str]]:
    yield from enumerate(path.read_text().splitlines(), 1)


def hits(places: list[str] | None = None) -> Iterator[tuple[str, int, str, str, str]]:
    """Yield each forbidden word: file, line, word, replacement, text."""
    for place in places or PLACES:
        top = ROOT / place
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.suffix not in {".py", ".md", ".ipynb", ".yml"} or path.name in {"words.py", "test_words.py"}:
                continue
            for line, text in _python(path) if path.suffix == ".py" else _text(path):
                if any(part in text for part in ALLOWED):
                    continue
                for pattern, instead in _PATTERNS:
                    for match in pattern.finditer(text):
                        yield str(path.relative_to(ROOT)), line, match[0], instead, text.strip()


def main() -> int:
    """Print the forbidden words, and how many each folder has."""
    count = Counter[str]()
    for file, line, word, instead, text in hits(sys.argv[1:] or None):
        count[str(Path(file).parent)] += 1
        print(f"{file}:{line}: {word!r} -> {instead}: {text[:140]}")
    for folder, number in count.most_common():
        print(f"{number:>6} {folder}", file=sys.stderr)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
