"""Registries for tests, which behave as known products and fail on demand.

::

    import ocikit.testing

    with ocikit.testing.registry("ecr") as host:
        ocikit.push(f"{host}/project/data:v1", "data.csv")
        host.cut("GET", ocikit.testing.BLOB, after=1000)
        ocikit.pull(f"{host}/project/data:v1")

Any client in any language can use such a registry: `python -m ocikit.testing ecr -- make test`. For pytest there are the
fixtures `oci_registry` and `oci_registries`.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from ocikit.testing.faults import Fault
    from ocikit.testing.messages import Request, Response, error_response
    from ocikit.testing.profiles import PROFILES, Account, Profile
    from ocikit.testing.quirks import QUIRKS, Quirk
    from ocikit.testing.registries import Registry, describe, registry
    from ocikit.testing.site import BLOB, MANIFEST, REFERRERS, TAGS, TOKEN, UPLOAD
    from ocikit.testing.tokens import TokenRequest

#: Modules of the public names. pytest imports this package in every run, and these modules need the server's packages.
_MODULES = {
    "faults": ("Fault",),
    "messages": ("Request", "Response", "error_response"),
    "profiles": ("PROFILES", "Account", "Profile"),
    "quirks": ("QUIRKS", "Quirk"),
    "registries": ("Registry", "describe", "registry"),
    "site": ("BLOB", "MANIFEST", "REFERRERS", "TAGS", "TOKEN", "UPLOAD"),
    "tokens": ("TokenRequest",),
}

__all__ = [
    "BLOB",
    "MANIFEST",
    "PROFILES",
    "QUIRKS",
    "REFERRERS",
    "TAGS",
    "TOKEN",
    "UPLOAD",
    "Account",
    "Fault",
    "Profile",
    "Quirk",
    "Registry",
    "Request",
    "Response",
    "TokenRequest",
    "describe",
    "error_response",
    "registry",
]


def __getattr__(name: str) -> _Any:
    for module, names in _MODULES.items():
        if name in names:
            value = globals()[name] = getattr(_import_module(f"ocikit.testing.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
