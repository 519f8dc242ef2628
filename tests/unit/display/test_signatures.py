"""Signatures in help: evaluated annotations with short names."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

import ocikit
from ocikit.display import Displayable
from ocikit.display.signatures import readable, set_signature

if TYPE_CHECKING:
    from nowhere import Missing

Mode = Literal["a.b", "c"]

T = TypeVar("T")


@readable
def function(
    path: os.PathLike[str], /, *names: str, mode: Mode | None = None, plain=1, **rest: Missing
) -> Iterable[str]:
    """Do nothing."""


@readable
class Example:
    def __init__(self, mode: Mode) -> None:
        pass

    def method(self, size: int | None = None) -> Missing | None:
        """Do nothing."""


def test_annotations_are_evaluated_and_short():
    assert str(inspect.signature(function)) == (
        "(path: PathLike[str], /, *names: str, mode: Literal['a.b', 'c'] | None = None, plain=1, **rest: Missing)"
        " -> Iterable[str]"
    )


def test_annotations_are_values():
    parameters = inspect.signature(function).parameters
    assert parameters["mode"].annotation == Mode | None
    assert parameters["path"].annotation == os.PathLike[str]
    assert parameters["rest"].annotation == "Missing"


def test_methods_are_shown_with_and_without_self():
    assert str(inspect.signature(Example.method)) == "(self, size: int | None = None) -> Missing | None"
    assert str(inspect.signature(Example("c").method)) == "(size: int | None = None) -> Missing | None"
    assert str(inspect.signature(Example)) == "(mode: Literal['a.b', 'c']) -> None"


def test_displayable_classes_have_readable_signatures_and_other_bases():
    class Table(Displayable, Generic[T]):
        def row(self, number: int) -> T | None:
            """Do nothing."""

    assert str(inspect.signature(Table.row)) == "(self, number: int) -> T | None"
    assert Table[int].__args__ == (int,)


def test_signature_of_another_function_leaves_self_out():
    def shown(*args, **kwargs):
        """Do nothing."""

    set_signature(shown, Example.method, skip=1)
    assert str(inspect.signature(shown)) == "(size: int | None = None) -> Missing | None"
    assert inspect.signature(shown).bind(3).arguments == {"size": 3}


def test_parameters_can_be_replaced():
    signature = inspect.signature(function)
    (first, *_) = signature.parameters.values()
    assert (
        str(signature.replace(parameters=[first.replace(name="file")])) == "(file: PathLike[str], /) -> Iterable[str]"
    )


def test_help_of_a_verb_reads_well():
    shown = str(inspect.signature(ocikit.pull))
    assert shown.startswith(
        "(ref: str | Reference | LayoutReference | HasReference, to: str | PathLike[str] | None = None, *,"
    )
    assert shown.endswith("dry_run: bool = False) -> Artifact")
    assert "'str" not in shown


def test_docstrings_of_ipython_have_plain_signatures():
    """IPython prints each parameter with `str`."""
    parameters = inspect.signature(ocikit.push).parameters
    assert str(parameters["links"]) == "links: Literal['inside', 'follow', 'skip'] = 'inside'"
    assert str(parameters["paths"]).startswith("*paths: str | PathLike[str] |")
