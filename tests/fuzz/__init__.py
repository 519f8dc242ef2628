"""Fuzz targets for untrusted input, and the damage that they get; `python -m tests.fuzz --help`."""
