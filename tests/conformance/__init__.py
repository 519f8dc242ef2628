"""Whether a registry does what the distribution specification says: the whole of it, on every kind of content.

    python -m tests.conformance                                    # our registry in every mode, as a Markdown table
    python -m tests.conformance http://127.0.0.1:5000 --mode dev   # somebody else's

Two suites. `official` runs the specification's own programme; the modules test_*.py here ask what its newer, unreleased
successor asks, and more; nothing is skipped, and a registry that takes another permitted way fails. The modes:

| mode | the registry |
|---|---|
| dev | takes manifests before what they reference, and what is not in a released specification yet: cancelled uploads, tags as parameters |
| stable | refuses manifests before what they reference; the released specification |
| read-only | was filled before; reads work, and changes are refused in words |
"""
