"""Calls with arguments that a function does not have."""

import inspect
import pickle

import ocikit
import pytest
from ocikit.spec.calls import explain_call, explain_methods


@explain_call
def fetch(ref, to=None, *, include=(), workers=1, tags=()):
    """Return the arguments."""
    return ref, to, include, workers, tags


@explain_call
def query(text, /, **tables):
    return text, tables


@explain_methods
class Client:
    def __init__(self, *, credentials=None):
        self.credentials = credentials

    def fetch(self, ref, to=None, *, force=False):
        return self, ref, to, force

    def broken(self, ref):
        return self.fetch(ref, folder="x")

    @property
    def name(self):
        return "a"

    @staticmethod
    def plain(a):
        return a

    def _private(self, a):
        return a


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fetch("a", folder="x"), "ocikit.fetch() has no argument 'folder'; did you mean to=?"),
        (lambda: fetch("a", max_workers=3), "ocikit.fetch() has no argument 'max_workers'; did you mean workers=?"),
        (lambda: fetch("a", Workers=3), "ocikit.fetch() has no argument 'Workers'; did you mean workers=?"),
        (lambda: fetch("a", includes="*"), "ocikit.fetch() has no argument 'includes'; did you mean include=?"),
        (lambda: fetch("a", tag="v1"), "ocikit.fetch() has no argument 'tag'; did you mean tags=?"),
        (lambda: fetch(zzz=1), "ocikit.fetch() has no argument 'zzz'; it has ref=, to=, include=, workers=, tags="),
        (lambda: fetch("a", "b", folder="x"), "ocikit.fetch() has no argument 'folder'; it has include=, workers=, tags="),
        (lambda: fetch("a", **{"\x1b[31m": 1}), r"ocikit.fetch() has no argument '\x1b[31m'; it has to=, include=, workers=, tags="),
        (lambda: fetch("a", "b", "c"), "ocikit.fetch() takes at most 2 positional arguments, but got 3; pass the others by name: include=, workers=, tags="),
        (lambda: fetch(), "ocikit.fetch() needs ref; see help(ocikit.fetch)"),
        (lambda: fetch("a", ref="b"), "ocikit.fetch() got ref twice, by position and by name; leave one out"),
        (lambda: query(), "ocikit.query() needs text; see help(ocikit.query)"),
        (lambda: query("a", "b"), "ocikit.query() takes at most 1 positional argument, but got 2"),
        (lambda: Client(user="ada"), "Client() has no argument 'user'; did you mean credentials=?"),
        (lambda: Client("ada"), "Client() takes at most 0 positional arguments, but got 1; pass the others by name: credentials="),
        (lambda: Client().fetch("a", dest="x"), "Client.fetch() has no argument 'dest'; did you mean to=?"),
        (lambda: Client().fetch("a", "b", "c"), "Client.fetch() takes at most 2 positional arguments, but got 3; pass the others by name: force="),
        (lambda: Client().fetch(), "Client.fetch() needs ref; see help(Client.fetch)"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named_with_the_next_step(call, message):
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value) == message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_right_arguments_are_passed_on():
    assert fetch("a", to="b", tags=["c"]) == ("a", "b", (), 1, ["c"])
    assert query("a", text="b") == ("a", {"text": "b"})
    client = Client(credentials=1)
    assert client.fetch("a", force=True) == (client, "a", None, True)
    assert client.name == "a" and Client.plain(1) == client._private(1) == 1


def test_error_within_a_function_stays():
    @explain_call
    def add(a, b):
        return a + b

    with pytest.raises(TypeError, match="unsupported operand"):
        add(1, "b")
    with pytest.raises(TypeError, match=r"^Client.fetch\(\) has no argument 'folder'"):
        Client().broken("a")


def test_signature_and_docstring_stay():
    assert list(inspect.signature(fetch).parameters) == ["ref", "to", "include", "workers", "tags"]
    assert fetch.__doc__ == "Return the arguments." and fetch.__name__ == "fetch"
    assert list(inspect.signature(Client).parameters) == ["credentials"]


@pytest.mark.parametrize("name", [n for n in ocikit.__all__ if inspect.isfunction(getattr(ocikit, n))] + ["open"])
def test_every_function_names_itself_in_the_error(name, home):
    with pytest.raises(TypeError, match=rf"^ocikit\.{name}\(\) "):
        getattr(ocikit, name)(1, 2, 3, 4, 5, zzz_zzz=1) if name != "sql" else ocikit.sql()


@pytest.mark.parametrize("call", [lambda: ocikit.Session(xyz=1), lambda: ocikit.Session().pull("a/b", xyz=1),
                                  lambda: ocikit.Network(xyz=1), lambda: ocikit.cache.prune(xyz=1)])  # fmt: skip
def test_methods_name_their_arguments(call, home):
    with pytest.raises(TypeError, match=r"^[A-Z][a-z]+(\.\w+)?\(\) has no argument 'xyz'; it has \w+="):
        call()


def test_notebook_hides_frames_of_this_package():
    with pytest.raises(TypeError) as caught:
        fetch("a", folder="x")
    assert caught.value._render_traceback_()


def test_explained_methods_can_be_pickled(session):
    assert pickle.loads(pickle.dumps(session.pin)).__self__.workers == session.workers
