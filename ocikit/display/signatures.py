"""Signatures that are easy to read in help: with the values of annotations and short names.

`from __future__ import annotations` makes all annotations text, which `inspect.signature` shows in quotes. Here they are
evaluated when the signature is read: "Links" becomes `Literal['inside', 'follow', 'skip']`. Annotations with names that a
module imports for type checkers only stay text, without quotes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, MappingProxyType
from typing import Any, TypeVar

T = TypeVar("T", bound="type | Callable[..., Any]")

#: Modules in front of names, and the mark of type variables, but not within the text of a `Literal`.
_MODULES = re.compile(r"'[^']*'|\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])|~(?=\w)")

#: How `typing` shows that a value may be None.
_OPTIONAL = re.compile(r"\bOptional\[((?:[^][]|\[[^][]*\])*)\]")


class _Text(str):
    """An annotation that cannot be evaluated. It is shown without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class _Parameter(inspect.Parameter):
    """A parameter that is shown with short names."""

    __slots__ = ()

    def __str__(self) -> str:
        default = "" if self.default is self.empty else f" = {self.default!r}"
        plain = str(self.replace(annotation=self.empty, default=self.empty, cls=inspect.Parameter))
        if self.annotation is self.empty:
            return f"{plain}{default.replace(' ', '')}"
        return f"{plain}: {shorten_names(inspect.formatannotation(self.annotation))}{default}"

    def _format(self, **_: Any) -> str:  # Python 3.14 calls it instead of __str__
        return str(self)

    def replace(self, *, cls: type[inspect.Parameter] | None = None, **changes: Any) -> Any:
        """Return a parameter with changes, of another class if that is given."""
        values = {"name": self.name, "kind": self.kind, "annotation": self.annotation, "default": self.default}
        return (cls or type(self))(**{**values, **changes})


class ReadableSignature(inspect.Signature):
    """The signature of a function, which is read and evaluated on first use.

    Args:
        parameters: The parameters, if they are known.
        return_annotation: Annotation of the result, if it is known.
        function: The function that has both.
        skip: Number of its parameters to leave out, such as `self`.
    """

    __slots__ = ("_function", "_skip")

    def __init__(
        self,
        parameters: Sequence[inspect.Parameter] | None = None,
        *,
        return_annotation: Any = inspect.Signature.empty,
        function: Callable[..., Any] | None = None,
        skip: int = 0,
    ) -> None:
        super().__init__(parameters, return_annotation=return_annotation)
        self._function = function
        self._skip = skip

    @property
    def parameters(self) -> MappingProxyType[str, inspect.Parameter]:
        """The parameters by name."""
        self._evaluate()
        return super().parameters

    @property
    def return_annotation(self) -> Any:
        """The annotation of the result."""
        self._evaluate()
        return super().return_annotation

    def _evaluate(self) -> None:
        if (function := self._function) is None:
            return
        self._function = None
        names = getattr(function, "__globals__", {})
        plain = inspect.Signature.from_callable(_without_signature(function))
        parameters = [
            _Parameter(p.name, p.kind, default=p.default, annotation=_evaluated(p.annotation, names))
            for p in list(plain.parameters.values())[self._skip :]
        ]
        super().__init__(parameters, return_annotation=_evaluated(plain.return_annotation, names))

    def __str__(self) -> str:
        found = inspect.Signature(list(self.parameters.values()))
        result = self.return_annotation
        return f"{found}{'' if result is self.empty else f' -> {shorten_names(inspect.formatannotation(result))}'}"


def shorten_names(text: str) -> str:
    """Return an annotation without the modules of its names.

    >>> from ocikit.display.signatures import shorten_names
    >>> shorten_names("os.PathLike[str] | Literal['a.b']"), shorten_names("typing.Optional[Literal['a.b']]")
    ("PathLike[str] | Literal['a.b']", "Literal['a.b'] | None")
    """
    short = _MODULES.sub(lambda match: match[0] if match[0].startswith("'") else "", text)
    return _OPTIONAL.sub(r"\1 | None", short)


def readable(shown: T) -> T:
    """Give a function, or the public methods of a class, a readable signature; a decorator."""
    if isinstance(shown, FunctionType):
        set_signature(shown, shown)
        return shown
    for name, member in vars(shown).items():
        value = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if isinstance(value, FunctionType) and (name == "__init__" or not name.startswith("_")):
            set_signature(value, value)
    return shown


def set_signature(shown: Callable[..., Any], function: Callable[..., Any], *, skip: int = 0) -> None:
    """Give a function the readable signature of another one, or of itself.

    Args:
        shown: The function that gets the signature.
        function: The function that has the parameters.
        skip: Number of its parameters to leave out, such as `self`.
    """
    shown.__signature__ = ReadableSignature(function=inspect.unwrap(function), skip=skip)  # type: ignore[attr-defined]  # for help


def _without_signature(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function with the same parameters, which `inspect` reads from its code."""
    if not isinstance(function, FunctionType):
        return function
    plain = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    plain.__kwdefaults__ = function.__kwdefaults__
    plain.__annotations__ = function.__annotations__
    return plain


def _evaluated(annotation: Any, names: Mapping[str, Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, dict(names))  # noqa: S307 - the annotations of our own functions
    except (NameError, TypeError, AttributeError):  # imported for type checkers only
        return _Text(annotation)
