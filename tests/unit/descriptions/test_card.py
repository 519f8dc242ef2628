"""Cards: a README with its front matter as a value."""

import pytest
from ocikit.descriptions.card import Card, card_name
from ocikit.errors import InvalidArgument

README = b"---\nlicense: other\nlicense_name: openrail\ntags:\n- tiny\n- 3\nn: 0\n---\n\n# Waves\n\nSines.\n"


def test_card_has_text_front_matter_license_and_tags():
    card = Card.parse(README)
    assert card.text == "\n# Waves\n\nSines.\n"
    assert card.data == {"license": "other", "license_name": "openrail", "tags": ("tiny", 3), "n": 0}
    assert (card.title, card.license, card.tags, card.ignored) == ("Waves", "openrail", ("tiny", "3"), "")
    assert str(card) == card.text
    assert hash(card) == hash(Card.parse(README))


def test_card_without_front_matter_is_its_text():
    card = Card.parse("no heading")
    assert (card.text, card.data, card.title, card.license, card.tags) == ("no heading", {}, "", "", ())


def test_licenses_of_card_are_one_text():
    assert Card(data={"license": ["mit", "apache-2.0"], "tags": "one"}).license == "mit, apache-2.0"
    assert Card(data={"license": {"a": 1}, "tags": "one"}).tags == ("one",)


def test_card_with_invalid_utf_8_is_read():
    assert Card.parse(b"# a\xff").text == "# a\ufffd"


def test_ignored_front_matter_stays_in_the_text():
    card = Card.parse("---\na: &x 1\n---\ntext")
    assert card.text.startswith("---")
    assert "ignored" in repr(card) and "anchor" in card._repr_html_()


def test_card_is_written_and_read_back():
    card = Card("# Waves\n", {"license": "mit", "tags": ["a", "b: c"], "deep": {"x": [1, None]}})
    assert Card.parse(card.to_bytes()) == card


@pytest.mark.parametrize("value", [float("nan"), b"x", {1, 2}, object()])
def test_card_with_other_values_is_not_written(value):
    with pytest.raises(InvalidArgument, match="front matter can't be written"):
        Card("", {"key": value}).to_bytes()


@pytest.mark.parametrize(
    ("titles", "name"),
    [
        (["a.csv", "README.md"], "README.md"),
        (["readme.MD", "b"], "readme.MD"),
        (["Readme.md", "README.md"], "README.md"),
        (["m/README.md", "m/deep/x"], "m/README.md"),
        (["m/deep/README.md", "m/x"], None),
        (["m/README.md", "n/x"], None),
        (["m/README.md", "x"], None),
        (["README.txt"], None),
        ([], None),
    ],
)
def test_card_is_at_the_top_or_in_the_only_folder(titles, name):
    assert card_name(titles) == name
