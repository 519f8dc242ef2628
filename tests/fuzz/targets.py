"""All fuzz targets by name."""

from tests.fuzz import accounts, archives, cards, documents, files, headers, models, objects, records, served, wire
from tests.fuzz.target import TARGETS

__all__ = ["TARGETS"]

_ = (
    accounts,
    archives,
    cards,
    documents,
    files,
    headers,
    models,
    objects,
    records,
    served,
    wire,
)  # each registers its targets
