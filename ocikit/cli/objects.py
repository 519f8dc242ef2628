"""The commands about objects: `save` and `load`.

In Python, these verbs take and return objects. A shell has files: `save` reads a file of another format, such as CSV, and saves
its content as `ocikit.save` does. `load` prints an object, or writes it to a file of another format.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import click

import ocikit
from ocikit import display
from ocikit.cli.command import argument, command
from ocikit.cli.options import (
    dry_run_option,
    json_option,
    notes_options,
    number_option,
    option,
    reference,
    repeated_option,
    with_session,
)
from ocikit.cli.output import print_note
from ocikit.cli.results import print_artifact, print_json, print_json_line
from ocikit.data.conversion import is_table, part_of, read_file, rows_of, to_plain, write_file

_ROWS = 10  # rows of a table that are shown
_TABLES = (".parquet", ".arrow", ".feather")
_TEXT_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")  # fetched as a whole, because they have no index of rows


@command(
    schema="save",
    examples=(
        ("A CSV file as Parquet, named waves.parquet", "ocikit save ghcr.io/ada/data:v1 waves.csv"),
        (
            "JSON from stdin, named metrics.json",
            "ocikit save ghcr.io/ada/model:v1 - metrics < out.json",
        ),
        ("As an Arrow file", "ocikit save ghcr.io/ada/data:v1 waves.csv --format arrow"),
    ),
)
@reference("Artifact with a tag; its other files stay.")
@argument("path", "FILE", "Table as CSV, TSV, JSON lines, Parquet or Arrow, or value as JSON; - reads JSON from stdin.")
@argument("name", "[NAME]", "Name of the file in the artifact, without its ending; that of FILE by default.")
@option(
    "--format", type=click.Choice(["parquet", "arrow", "json"]), help="Format; parquet for tables, json for values."
)
@repeated_option("--tag", "tags", metavar="TAG", help="Another tag of the result; repeatable.")
@notes_options
@dry_run_option
@json_option
@with_session
def save(
    session: ocikit.Session,
    ref: str,
    path: str,
    name: str | None,
    *,
    dry_run: bool,
    as_json: bool,
    tags: tuple[str, ...],
    version: Literal["next"] | None,
    **settings: Any,
) -> None:
    """Save a table or a JSON value in a format that others read.

    CSV becomes Parquet, from which 'ocikit load' and data libraries read single columns and rows. 'ocikit push' and
    'ocikit edit --add' take files as they are. The reference with the digest is printed.
    """
    artifact = ocikit.save(
        ref,
        _stdin_value() if path == "-" else read_file(Path(path).expanduser()),
        name or (None if path == "-" else Path(path).stem),
        tags=tags,
        version=version,
        dry_run=dry_run,
        session=session,
        **settings,
    )
    print_artifact(artifact, dry_run=dry_run, as_json=as_json)


def _stdin_value() -> Any:
    try:
        return json.load(sys.stdin.buffer)
    except (ValueError, RecursionError) as error:
        raise ocikit.InvalidDocument(f"stdin is not JSON: {error}", hint="name a file for other formats") from error


@command(
    schema="load",
    examples=(
        ("The first rows of a table", "ocikit load ghcr.io/ada/data:v1 waves"),
        (
            "Two columns as CSV",
            "ocikit load ghcr.io/ada/data:v1 waves \\\n    --column x --column y --output waves.csv",
        ),
        ("All rows as JSON lines", "ocikit load ghcr.io/ada/data:v1 waves --json | jq .x"),
    ),
)
@reference()
@argument("name", "[FILE]", "Name of the file; its ending may be left out. Without it, the only file.")
@repeated_option("--column", "columns", metavar="NAME", help="Only this column of a table; repeatable.")
@number_option("--rows", help="Only this number of rows from the start; 10 are shown by default.")
@option("-o", "--output", metavar="FILE", help="Write it to a file: .csv, .tsv, .jsonl, .parquet, .arrow or .json.")
@json_option
@with_session
def load(
    session: ocikit.Session,
    ref: str,
    name: str | None,
    *,
    columns: tuple[str, ...],
    rows: int | None,
    output: str | None,
    as_json: bool,
) -> None:
    """Show or convert a table or another object.

    Of a table, only the columns and rows that are needed are requested. With --json, each row of a table is a line, and
    another object is one document. Nothing from the file is run.
    """
    artifact = session.inspect(ref)
    title = _title(artifact, name)
    limit = rows or (None if output or as_json else _ROWS)
    if title.endswith(_TEXT_TABLES):
        value = part_of(read_file(artifact[title].path), columns, limit)
    elif title.endswith(_TABLES):
        value = ocikit.load(artifact, title, columns=columns or None, rows=limit, as_="arrow", session=session)
    else:
        value = ocikit.load(artifact, title, columns=columns or None, rows=rows, session=session)
    if output is not None:
        write_file(value, Path(output).expanduser())
        print(output)
    elif not is_table(value):
        print_json(to_plain(value)) if as_json else print(_text(value))
    elif as_json:
        for row in rows_of(value):
            print_json_line(row)
    else:
        for line in _lines(value):
            print(line)
        if rows is None and value.num_rows == _ROWS:
            print_note(f"the first {_ROWS} rows; --rows N shows others, and --json or --output all")


def _title(artifact: ocikit.Artifact, name: str | None) -> str:
    """Return the name of a file with its ending.

    Raises:
        InvalidArgument: There are several.
    """
    names = list(artifact.files)
    if name is not None:
        fitting = [title for title in names if title == name or title.startswith(f"{name}.")]
        return fitting[0] if len(fitting) == 1 else name
    if len(names) != 1:
        raise ocikit.InvalidArgument(
            f"{artifact.reference} has {display.pluralize(len(names), 'file')}, and none is named",
            hint=f"name one of {display.join_limited(names, 5)}" if names else "ocikit inspect shows its layers",
        )
    return names[0]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return str(display.sanitize(value, newlines=True))
    if isinstance(value, dict | list | int | float | bool | None):
        return json.dumps(to_plain(value), indent=2)
    return str(display.sanitize(value, newlines=True))


def _lines(table: Any) -> Iterator[str]:
    """Yield the lines of a table with aligned columns."""
    names = list(table.column_names)
    rows = [[_cell(row[name]) for name in names] for row in rows_of(table)]
    cells = [[display.shorten(name, display.CELL) for name in names], *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _cell(value: Any) -> str:
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
    return display.shorten(text, display.CELL)
