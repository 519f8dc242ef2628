"""The JSON that commands write: one JSON schema (draft 2020-12) for each command with `--json`.

Later versions may add keys, so readers must ignore those that they do not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from ocikit.cli.command import argument, command
from ocikit.cli.results import print_json
from ocikit.display import nearest
from ocikit.errors import InvalidArgument

Schema = dict[str, Any]

_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"


class Output(NamedTuple):
    """What a command writes with `--json`."""

    schema: Schema
    """Of the document, or of each line."""
    lines: bool = False
    """Whether the output is JSON lines: one document in each line."""


def _text(description: str) -> Schema:
    return {"type": "string", "description": description}


def _count(description: str) -> Schema:
    return {"type": "integer", "minimum": 0, "description": description}


def _flag(description: str) -> Schema:
    return {"type": "boolean", "description": description}


def _time(description: str) -> Schema:
    return {"type": "string", "format": "date-time", "description": description}


def _choice(description: str, *values: str) -> Schema:
    return {"enum": list(values), "description": description}


def _or_null(schema: Schema) -> Schema:
    kind = {"enum": [*schema["enum"], None]} if "enum" in schema else {"type": [schema["type"], "null"]}
    return {**schema, **kind}


def _list(items: Schema, description: str) -> Schema:
    return {"type": "array", "items": items, "description": description}


def _texts(description: str) -> Schema:
    return _list({"type": "string"}, description)


def _by_name(values: Schema, description: str) -> Schema:
    return {"type": "object", "additionalProperties": values, "description": description}


def _object(description: str, properties: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    return {
        "type": "object",
        "description": description,
        "properties": {**properties, **(optional or {})},
        "required": list(properties),
    }


_DIGEST: Final = {"type": "string", "pattern": "^[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+$"}


def _digest(description: str) -> Schema:
    return {**_DIGEST, "description": description}


_REFERENCE = _text("The reference, with its digest.")
_SIZE = _count("Bytes.")
_KEPT = {"reference": _REFERENCE, "digest": _digest("Digest of the manifest or index.")}
_ANNOTATIONS = _by_name({"type": "string"}, "Annotations of the manifest.")
_DRY_RUN = _flag("True if nothing was changed.")

_ARTIFACT = {
    **_KEPT,
    "tag": _or_null(_text("The tag, if the reference has one.")),
    "kind": _text("Type of the artifact, or the kind of image."),
    "size": _count("Bytes of the content."),
}

_STEP = _object(
    "A step of a dry run.",
    {
        "name": _text("Name of the file, type of the document, or key of the annotation."),
        "action": _text(
            "transfer, present (it is there already), skip, fetch, replace, overwrite, edited (in the way), add, remove, "
            "rename or annotate."
        ),
        "digest": _or_null(_digest("Digest of the content.")),
        "size": _or_null(_SIZE),
        "before": _or_null(_text("The name before a renaming.")),
    },
)

_MADE = {
    **_ARTIFACT,
    "dry_run": _DRY_RUN,
    "plan": {"type": ["array", "null"], "items": _STEP, "description": "The steps of a dry run; else null."},
}

_FILE = _object(
    "A file.",
    {
        "name": _text("Its name, with folders."),
        "size": _SIZE,
        "digest": _digest("Digest of the content."),
        "media_type": _text("Media type."),
    },
)

_PAIR = {
    "type": ["object", "null"],
    "description": "The values before and after.",
    "properties": {"old": {"description": "Before."}, "new": {"description": "After."}},
}
_CHANGED_FILE = _object("A file.", {"path": _text("Name of the file."), "hash": _digest("Digest."), "size": _SIZE})

_CORRUPT = _object(
    "Damaged content.", {"digest": _digest("The digest that it should have."), "problem": _text("Cause.")}
)

_DESCRIPTION = {
    "type": "object",
    "description": "What is in a file. What is unknown or empty is absent.",
    "properties": {
        "problem": _text("Why the file cannot be described; then there is nothing else."),
        "name": _text("Name of the file."),
        "kind": _text("table, tensors, archive and others."),
        "format": _text("parquet, safetensors and others."),
        "size": _SIZE,
        "rows": _count("Rows of a table."),
        "approximate": _flag("True if the number of rows is an estimate."),
        "dtype": _text("Type of the values of an array."),
        "shape": _list({"type": "integer"}, "Shape of an array."),
        "parameters": _count("Parameters of a model."),
        "columns": _list({"type": "object"}, "Columns of a table, with name and type."),
        "tensors": _by_name({"type": "object"}, "Tensors or arrays by name."),
        "entries": _list({"type": "object"}, "Members of an archive."),
        "metadata": _by_name({}, "What the file states about itself."),
        "runs_code": _text("Why opening the file may run code."),
        "note": _text("What was not read."),
        "bytes_read": _count("Bytes that were requested."),
        "requests": _count("Requests that were made."),
        "verified": _flag("Whether the digest of the whole file was verified."),
    },
}

#: By the name of a command.
OUTPUTS: Final[Mapping[str, Output]] = {
    "pull": Output(
        _object(
            "What was pulled.",
            {**_MADE, "path": _or_null(_text("The folder of the files; null if there are none on disk."))},
        )
    ),
    "push": Output(_object("The artifact that was pushed.", _MADE)),
    "copy": Output(_object("The artifact that was copied.", _MADE)),
    "edit": Output(_object("The artifact that was edited.", _MADE)),
    "save": Output(_object("The artifact with the saved file.", _MADE)),
    "attach": Output(_object("The new artifact.", _MADE)),
    "watch": Output(_object("The artifact of the last push.", _ARTIFACT)),
    "ls": Output(
        _object(
            "An artifact and its files.",
            {
                "reference": _REFERENCE,
                "kind": _ARTIFACT["kind"],
                "size": _ARTIFACT["size"],
                "files": _list(_FILE, "The files."),
            },
        )
    ),
    "inspect": Output(
        _object(
            "An artifact or image.",
            {
                **_ARTIFACT,
                "media_type": _text("Media type of the manifest or index."),
                "artifact_type": _or_null(_text("Type of the artifact, if the document has one.")),
                "annotations": _ANNOTATIONS,
                "platforms": _texts("Platforms of an index; they are empty for a manifest."),
                "layers": _list(
                    _object(
                        "A layer.",
                        {
                            "title": _or_null(_text("Name of the file, if the layer has one.")),
                            "media_type": _text("Media type."),
                            "digest": _digest("Digest of the content."),
                            "size": _SIZE,
                        },
                    ),
                    "Layers of a manifest; they are empty for an index.",
                ),
                "manifests": _list(
                    _object(
                        "A manifest of an index.",
                        {
                            "platform": _or_null(_text("Platform, such as linux/arm64.")),
                            "media_type": _text("Media type."),
                            "digest": _digest("Digest of the manifest."),
                            "size": _SIZE,
                        },
                    ),
                    "Manifests of an index; they are empty for a manifest.",
                ),
            },
        )
    ),
    "validate": Output(
        _object(
            "The result of a validation.",
            {
                "reference": _REFERENCE,
                "ok": _flag("True if there are no violations."),
                "documents": _list(_digest("Digest of a document."), "The documents that were checked."),
                "violations": _list(
                    _object(
                        "A violation.",
                        {
                            "document": _or_null(_digest("Digest of the document.")),
                            "path": _text("JSON path in the document, such as $.layers[2].digest."),
                            "message": _text("What was expected and what was found."),
                        },
                    ),
                    "The violations.",
                ),
            },
        )
    ),
    "tags": Output(
        _object("A tag.", {"tag": _text("The tag."), "reference": _text("The reference with the tag.")}), lines=True
    ),
    "catalog": Output(
        _object(
            "A repository.",
            {"repository": _text("Name of the repository."), "reference": _text("The name with its registry.")},
        ),
        lines=True,
    ),
    "resolve": Output(_object("A reference and its digest.", {**_KEPT, "tag": _ARTIFACT["tag"]})),
    "exists": Output(
        _object(
            "Whether there is an artifact.", {"reference": _text("As it was given."), "exists": _flag("The answer.")}
        )
    ),
    "tag": Output(
        _object(
            "The artifact and its new tags.",
            {
                **_KEPT,
                "tags": _list(
                    _object(
                        "A tag.",
                        {
                            "tag": _text("The tag."),
                            "change": _choice("What happens to it.", "created", "moved", "unchanged"),
                        },
                    ),
                    "The new tags.",
                ),
                "dry_run": _DRY_RUN,
            },
        )
    ),
    "delete": Output(
        _object(
            "A deletion.",
            {
                "reference": _text("What was deleted."),
                "digest": _digest("Digest of the manifest."),
                "deletes": _choice("Whether the tag alone is deleted.", "tag", "manifest"),
                "dry_run": _DRY_RUN,
            },
        ),
        lines=True,
    ),
    "referrers": Output(
        _object(
            "An artifact that is attached to another one. Each line follows that of its subject.",
            {
                "digest": _digest("Digest of its manifest."),
                "artifact_type": _or_null(_text("Type of the artifact.")),
                "media_type": _text("Media type of its manifest."),
                "size": _count("Bytes of its manifest."),
                "subject": _digest("Digest of what it is attached to."),
                "depth": {
                    "type": "integer",
                    "minimum": 1,
                    "description": "1 for what is attached to the artifact itself.",
                },
                "annotations": _ANNOTATIONS,
            },
        ),
        lines=True,
    ),
    "card": Output(
        _object(
            "README.md and its front matter.",
            {
                "title": _text("Title."),
                "license": _text('License, or "".'),
                "tags": _texts("Keywords."),
                "data": _by_name({}, "All of the front matter."),
                "text": _text("The text without the front matter."),
                "ignored": _text("Why the front matter was not read."),
            },
        )
    ),
    "load": Output(
        {"description": "A row of a table by the names of its columns; for another object, the only document."},
        lines=True,
    ),
    "describe": Output(
        {
            "anyOf": [
                _object(
                    "All files of an artifact.",
                    {"reference": _REFERENCE, "files": _by_name(_DESCRIPTION, "Descriptions by the names of files.")},
                ),
                {**_DESCRIPTION, "required": ["name", "kind", "format", "size", "bytes_read", "requests", "verified"]},
            ]
        }
    ),
    "diff": Output(
        _object(
            "The differences, with the keys of dvc diff.",
            {
                "a": _text("The first side."),
                "b": _text("The second side."),
                "added": _list(_CHANGED_FILE, "Files that only the second side has."),
                "deleted": _list(_CHANGED_FILE, "Files that only the first side has."),
                "modified": _list(
                    _object(
                        "A file with two versions.",
                        {"path": _text("Name of the file."), "hash": _PAIR, "size": _PAIR},
                        {"table": _by_name({}, "With --tables, columns and rows.")},
                    ),
                    "Files that differ.",
                ),
                "renamed": _list(
                    _object("A file with two names.", {"path": _PAIR, "hash": _digest("Digest."), "size": _SIZE}),
                    "Files with the same content under another name.",
                ),
                "same": _count("Number of files that do not differ."),
                "annotations": _by_name(_PAIR, "Annotations that differ."),
                "config": _PAIR,
                "artifact_type": _PAIR,
                "bytes_to_fetch": _count("Bytes of content that only the second side has."),
            },
            {"note": _text("What was not compared.")},
        )
    ),
    "history": Output(
        _object(
            "The versions of an artifact.",
            {
                "reference": _text("What was asked for."),
                "versions": _list(
                    _object(
                        "A version.",
                        {
                            **_KEPT,
                            "tags": _texts("Its tags."),
                            "created": _text('When it was made, in RFC 3339, or "".'),
                            "message": _text("What it changes, as its author wrote."),
                            "files": _count("Number of files."),
                            "size": _SIZE,
                            "added": _or_null(_count("Number of files that the version before does not have.")),
                            "removed": _or_null(_count("Number of files that only the version before has.")),
                            "changed": _or_null(_count("Number of files with other content.")),
                            "renamed": _or_null(_count("Number of files with another name.")),
                            "delta": {
                                "type": ["integer", "null"],
                                "description": "Bytes more than the version before.",
                            },
                            "gap": _text('Why the version before is not known from this one, or "".'),
                            "inputs": _texts("References of what it was made from."),
                        },
                    ),
                    "The newest first.",
                ),
                "end": _text("Where the list ends, and why."),
            },
        )
    ),
    "lineage": Output(
        _object(
            "What an artifact was made from.",
            {
                "reference": _REFERENCE,
                "artifacts": _list(
                    _object(
                        "An artifact.",
                        {
                            "reference": _REFERENCE,
                            "depth": _count("Steps from the artifact that was asked for."),
                            "artifact_type": _text('Type of the artifact, or "".'),
                            "message": _text("What it changes, as its author wrote."),
                            "files": _count("Number of files."),
                            "problem": _text('Why it could not be read, or "".'),
                            "inputs": _texts("References of what it was made from."),
                        },
                    ),
                    "The artifact itself first, then its sources.",
                ),
                "claims": _list(
                    _object(
                        "A source that a file states, without a reference.",
                        {"file": _text("The file."), "kind": _text("model or dataset."), "name": _text("The source.")},
                    ),
                    "Sources that files state.",
                ),
                "note": _text('What was not read, or "".'),
            },
        )
    ),
    "login": Output(
        _object(
            "A login.",
            {
                "host": _text("The registry."),
                "username": _text("Name of the account."),
                "stored": _text("The file or credential helper with the credentials."),
            },
        )
    ),
    "logout": Output(
        _object("A logout.", {"host": _text("The registry."), "removed": _flag("Whether credentials were deleted.")})
    ),
    "explain": Output(
        _object(
            "The credentials in use, without secrets.",
            {
                "host": _text("The registry."),
                "repository": _text('The repository, or "".'),
                "username": _text('Name of the account, or "".'),
                "kind": _text('Kind of the credentials; "" if access is anonymous.'),
                "sources": _list(
                    _object(
                        "A source that was checked.",
                        {
                            "place": _text("File, variable or argument."),
                            "username": _text("Name of the account there."),
                            "kind": _text("Kind of the credentials there."),
                            "key": _text("The matching key, such as quay.io/team."),
                            "note": _text("The helper, or why there are no credentials."),
                            "used": _flag("True for the source in use."),
                            "failed": _flag("True if the source cannot be read."),
                        },
                    ),
                    "The sources in the order in which they were checked.",
                ),
            },
        )
    ),
    "cache ls": Output(
        _object(
            "What the cache has.",
            {
                "root": _text("Its folder."),
                "blobs": _count("Number of blobs."),
                "size": _count("Bytes on disk."),
                "partial": _count("Number of unfinished transfers."),
                "repositories": _list(
                    _object(
                        "A repository.",
                        {
                            "name": _text("Name with registry."),
                            "tags": _texts("Tags."),
                            "snapshots": _count("Number of snapshots."),
                            "size": _SIZE,
                            "last_used": _time("Last use."),
                        },
                    ),
                    "The repositories.",
                ),
            },
        )
    ),
    "cache verify": Output(
        _object(
            "The result of a verification.",
            {
                "checked": _count("Number of blobs."),
                "size": _SIZE,
                "corrupt": _list(_CORRUPT, "The damaged content."),
                "removed": _flag("Whether damaged content was deleted."),
            },
        )
    ),
    "cache prune": Output(
        _object(
            "What was deleted.",
            {"dry_run": _DRY_RUN, "names": _texts("References."), "size": _count("Bytes that were freed.")},
        )
    ),
    "gc": Output(
        _object(
            "What was deleted.",
            {
                "dry_run": _DRY_RUN,
                "blobs": _list(
                    _object("Content.", {"digest": _digest("Digest."), "size": _SIZE}), "Content that was deleted."
                ),
                "unlinked": _list(
                    _object(
                        "A blob of a repository.",
                        {"digest": _digest("Digest."), "size": _SIZE, "repository": _text("Name of the repository.")},
                    ),
                    "Blobs that were removed from a repository.",
                ),
                "uploads": _count("Number of expired uploads."),
                "size": _count("Bytes that were freed."),
            },
        )
    ),
    "verify": Output(
        _object(
            "The result of a verification.",
            {
                "checked": _count("Number of blobs."),
                "size": _SIZE,
                "corrupt": _list(
                    {
                        **_CORRUPT,
                        "properties": {**_CORRUPT["properties"], "repositories": _texts("Repositories that have it.")},
                    },
                    "The damaged content.",
                ),
                "removed": _flag("Whether damaged content was deleted."),
            },
        )
    ),
}


def schema_of(name: str) -> Schema:
    """Return the JSON schema of a command.

    Args:
        name: The command, such as "ls" or "cache ls".
    """
    output = OUTPUTS[name]
    title = f"ocikit {name} --json" + (", each line" if output.lines else "")
    return {"$schema": _DRAFT, "title": title, **output.schema}


@command(
    examples=(
        ("Of one command", "ocikit schema ls"),
        ("Of an action", "ocikit schema cache ls"),
        ("All commands with --json", "ocikit schema"),
    )
)
@argument("words", "[COMMAND]...", "Command, such as 'ls' or 'cache ls'; without it, all that have --json are listed.")
def schema(words: tuple[str, ...]) -> None:
    """Print the JSON schema of what --json writes.

    Later versions may add keys, so programs must ignore those that they do not know.
    """
    name = " ".join(words)
    if not name:
        for each in OUTPUTS:
            print(each)
        return
    if name not in OUTPUTS:
        near = nearest(name, OUTPUTS)
        raise InvalidArgument(
            f"there is no schema for {name!r}",
            hint=f"nearest: {', '.join(near)}" if near else "'ocikit schema' lists the commands with --json",
        )
    print_json(schema_of(name))
