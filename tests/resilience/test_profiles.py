"""Every operation on every registry profile: it succeeds, or raises a typed error with the next step."""

import logging
import re

import pytest
from attrs import evolve
from ocikit.testing.profiles import PROFILES
from ocikit.testing.quirks import QUIRKS

from tests.resilience.expected import CANNOT, triggered
from tests.resilience.suite import OPERATIONS, Case, upstream  # noqa: F401 - a fixture
from tests.support.site import NamedSite

CELLS = [
    pytest.param(profile, operation, id=f"{profile.name}-{operation}")
    for profile in PROFILES.values()
    for operation in OPERATIONS
]


@pytest.mark.parametrize(("profile", "operation"), CELLS)
def test_operation_succeeds_or_raises_typed_error(profile, operation, upstream, home, record_property, caplog):
    registry, behind = upstream
    caplog.set_level(logging.DEBUG, "ocikit")
    said = ""
    scene = NamedSite(
        registry.url, profile.host or "registry.example", profile.storage, profile.api_host, pages=profile.pages
    )
    with scene:
        # The account cannot reach the source of mounts
        foreign = {name: {"foreign": "seed/.*"} for name in ("hub-mount-scope", "harbor-mount-401")}
        evolve(profile, options={**profile.options, **foreign}).settle(scene, public=["seed/*"])
        case = Case(profile, scene, operation, home, behind)
        cannot = CANNOT.get(profile.name, {}).get(operation)
        record_property("cell", (operation, profile.name, cannot.kind.__name__ if cannot else "yes"))
        with case.session:
            if cannot is None:
                OPERATIONS[operation](case)
            else:
                with pytest.raises(cannot.kind) as caught:
                    OPERATIONS[operation](case)
                said = str(caught.value)
                assert re.search(cannot.hint, caught.value.hint)
                assert re.search(cannot.said, caught.value.message)
        scene.check(said + caplog.text)
        assert triggered(profile, operation) <= set(scene.triggered)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda p: p.name)
def test_operations_trigger_every_quirk_of_profile(profile):
    assert [name for name in profile.quirks if not OPERATIONS.keys() & set(QUIRKS[name].at)] == []
    assert CANNOT.get(profile.name, {}).keys() <= OPERATIONS.keys()


def test_every_quirk_has_a_profile():
    named = {name for profile in PROFILES.values() if profile.name != "worst" for name in profile.quirks}
    assert named == {name for name, quirk in QUIRKS.items() if quirk.hook is not None}
