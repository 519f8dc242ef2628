"""Tag order: versions by number, releases before pre-releases, one order for cards and the explorer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ocikit.display import ROWS
from ocikit.spec.tag_order import TagSummary, newest_first


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["v1.0", "v2.0-rc1"], "v1.0"),
        (["v2.0-rc1", "v2.0-alpha"], "v2.0-rc1"),
        (["3.14.0", "3.15.0a4", "3.15.0b1-slim", "3.15-rc-slim", "3.16.dev20261120"], "3.14.0"),
        (["3.14-alpine3.20", "3.13-bookworm"], "3.14-alpine3.20"),
        (["1.1-a1b2c3d", "1.0"], "1.1-a1b2c3d"),
        (["1.0-M1", "2.0-SNAPSHOT", "0.9"], "0.9"),
        (["latest", "edge"], "latest"),
        (["1.0", *(f"2.0-rc{n}" for n in range(100))], "1.0"),
        ([], ""),
    ],
)
def test_newest_prefers_releases(tags, expected):
    assert TagSummary().with_more(tags).newest == expected


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["1.9", "1.10", "1.2"], ["1.10", "1.9", "1.2"]),
        (["v1", "2", "v10"], ["v10", "2", "v1"]),
        (["3.14-rc1", "3.14", "3.13"], ["3.14", "3.14-rc1", "3.13"]),
        (["3.14-slim10", "3.14-slim9"], ["3.14-slim10", "3.14-slim9"]),
        (["2026-01-09", "2026-10-01", "2025-12-31"], ["2026-10-01", "2026-01-09", "2025-12-31"]),
        (["20261120", "20261121"], ["20261121", "20261120"]),
        (["1" * 5000, "2"], ["2"]),
        (["1", "1.0", "1.0.0"], ["1.0.0", "1.0", "1"]),
    ],
)
def test_versions_are_sorted_by_number_newest_first(tags, expected):
    assert list(TagSummary().with_more(tags).versions) == expected


def test_summary_in_steps_equals_summary_at_once():
    tags = (
        [f"v{i % 7}.{i}{'-rc1' if i > 480 else ''}" for i in range(500)]
        + [f"word{i}" for i in range(60)]
        + ["ab" * 20 + str(i) for i in range(9)]
    )
    whole, pieces = TagSummary().with_more(tags), TagSummary()
    for start in range(0, len(tags), 37):
        pieces = pieces.with_more(tags[start : start + 37])
    assert pieces == whole
    assert whole.counts == (500, 60, 9)
    assert whole.newest == "v6.475"
    assert whole.names[:3] == ("word0", "word1", "word2")


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["v1.9", "v1.10", "latest"], ["latest", "v1.10", "v1.9"]),
        (["3.1-rc2", "3.1", "v1.10-rc1", "latest"], ["latest", "3.1", "3.1-rc2", "v1.10-rc1"]),
        (["ab" * 20, "main", "edge", "1.0"], ["1.0", "edge", "main", "ab" * 20]),
        ([], []),
    ],
)
def test_newest_first_orders_all_kinds(tags, expected):
    assert newest_first(tags) == expected


TAGS = st.lists(
    st.from_regex(r"\A(v?[0-9]{1,3}(\.[0-9]{1,2})?(-rc[0-9])?|[a-z]{1,6}|latest)\Z"), max_size=ROWS, unique=True
)


@given(TAGS)
def test_newest_first_agrees_with_summary(tags):
    ordered, summary = newest_first(tags), TagSummary().with_more(tags)
    assert sorted(ordered) == sorted(tags)
    assert [tag for tag in ordered if tag in summary.versions] == list(summary.versions)
    assert [tag for tag in ordered if tag in summary.names] == list(summary.names)
