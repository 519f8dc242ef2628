"""Conformance with the distribution specification, on every kind of content.

    python -m tests.conformance                                    # our registry in every mode, as a Markdown table
    python -m tests.conformance http://127.0.0.1:5000 --mode dev   # another registry

There are two suites. `official` runs the specification's own program. The modules test_*.py check each step on its own,
and more. No check is skipped, and a registry that uses another permitted way fails. The modes:

| mode | the registry |
|---|---|
| dev | accepts manifests before their children, and features of unreleased specifications: cancelled uploads, tags as parameters |
| stable | rejects manifests before their children; the released specification |
| read-only | was filled before; reads work, and changes are rejected with an error |
"""
