"""Tar layers: read, write, compress, pack, unpack. This package knows no store and no network."""
