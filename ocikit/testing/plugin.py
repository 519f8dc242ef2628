"""Fixtures for pytest: registries for tests. pytest loads this plugin in each run, so it imports nothing before a fixture is used.

::

    def test_report_is_pushed(oci_registry):                  # a registry that follows the specification
        publish(f"{oci_registry}/reports/weekly:v1")
        assert oci_registry.seen("PUT", MANIFEST)

    @pytest.mark.oci_registry("ghcr")                         # as GHCR behaves, with a login
    def test_report_is_pushed_to_ghcr(oci_registry): ...

    @pytest.mark.parametrize("oci_registry", ["ecr", "gar", "hub"], indirect=True)
    def test_report_is_pushed_everywhere(oci_registry): ...

    def test_copy_between_products(oci_registries):           # several at once
        source, target = oci_registries("hub"), oci_registries("ecr")
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ocikit.testing.registries import Registry


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        "oci_registry(profile, **options): the profile and options of the registry in the fixture oci_registry",
    )


@pytest.fixture
def oci_registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Registry]]:
    """Return a function that starts a registry, with the arguments of `ocikit.testing.registry`.

    Registries end with the test. The test has a cache of its own, because that of the user would keep its content.
    """
    from ocikit.testing.registries import registry  # noqa: PLC0415 - heavy, and most tests need no registry

    with ExitStack() as stack:
        cache = stack.enter_context(tempfile.TemporaryDirectory(prefix="ocikit-testing-", ignore_cleanup_errors=True))
        monkeypatch.setenv("OCIKIT_CACHE", cache)

        def start(profile: str = "plain", **options: Any) -> Registry:
            return stack.enter_context(registry(profile, **options))

        yield start


@pytest.fixture
def oci_registry(request: pytest.FixtureRequest, oci_registries: Callable[..., Registry]) -> Registry:
    """Return a running registry, whose text is its host. The profile is that of the marker or of an indirect parameter."""
    marker = request.node.get_closest_marker("oci_registry")
    options = dict(marker.kwargs) if marker else {}
    names = [request.param] if hasattr(request, "param") else list(marker.args) if marker else []
    return oci_registries(*names, **options)
