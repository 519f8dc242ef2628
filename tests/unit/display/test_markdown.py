"""Markdown of other people: what is formatted, and that nothing else reaches a page or a terminal."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ocikit.display import HTML_LIMIT, Markdown

from tests.support.cards import harmless
from tests.unit.display.test_display import BAD, TAG, UNSAFE

ATTACKS = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<svg/onload=alert(1)>", "<iframe src=//evil.example>", "<style>*{}</style>",
    "<!-- --!><img src=x onerror=alert(1)> -->", "<!--><script>alert(1)</script>", "<<script>script>alert(1)<</script>/script>",
    "<a href='javascript:alert(1)'>x</a>", "<img src=x onerror=alert(1)//", "<p\nonclick=alert(1)>x", "<?php ?>", "<![CDATA[<script>]]>",
    "[x](javascript:alert(1))", "[x](JaVaScRiPt:alert(1))", "[x](  javascript:alert(1))", "[x](java\tscript:alert(1))", "[x](&#106;avascript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)", "[x](vbscript:x)", "[x](//evil.example/)", "[x](file:///etc/passwd)", "[x](/etc)", "[x](#top)",
    "[x](https://good.example@evil.example/)", "[x](https://a.example\\@evil.example)", "[x](https://a.example/\u202egpj.exe)", "<javascript:alert(1)>",
    '[x](https://a.example/"onmouseover="alert(1))', '[x](https://a.example "t\\" onclick=\\"alert(1)")', "[x]: javascript:alert(1)\n\n[x]",
    "![x](https://track.example/p.png)", "![x](javascript:alert(1))", '![" onerror=alert(1)](x)', "[![x](https://track.example/p.png)](https://a.example)",
    '```js" onclick="alert(1)\nx\n```', "```</code></pre><script>alert(1)</script>\nx\n```", "`</code><script>`", "&lt;script&gt;alert(1)&lt;/script&gt;",
    "| <script> |\n|---|\n| <img src=x> |", '1" onclick="x. a', "# <script>", "a  \n<script>", "\x1b]0;t\x07\x1b[31mred", "\\<script>", "<a@b.example>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>", TAG, BAD,
]  # fmt: skip


@pytest.mark.parametrize("text", ATTACKS)
def test_hostile_markdown_is_harmless(text):
    for source in (
        text,
        f"# a\n\n{text}\n\nb",
        f"- {text}\n  {text}",
        f"> {text}",
        f"[{text}](https://a.example/{text})",
        text * 50,
    ):
        page = Markdown(source).html()
        assert harmless(f"<div>{page}</div>")
        assert not UNSAFE.search(page.replace("\n", ""))
        assert not UNSAFE.search(Markdown(source).text().replace("\n", ""))


@settings(max_examples=300)
@given(
    st.lists(
        st.sampled_from(
            [*ATTACKS, "\n", " ", "<", ">", '"', "'", "`", "[", "](", ")", "!", "*", "_", "|", "-", "#", "\\", "&"]
        ),
        max_size=12,
    )
)
def test_any_markdown_is_harmless(parts):
    assert harmless(f"<div>{Markdown(''.join(parts)).html()}</div>")


@pytest.mark.parametrize(
    ("text", "page"),
    [
        ("# A\n\nb *c* **d** ~~e~~ `f<`", "<h3>A</h3><p>b <em>c</em> <strong>d</strong> <s>e</s> <code>f&lt;</code></p>"),
        ("###### A", "<h6>A</h6>"),
        ("- a\n- b\n\n3. c", '<ul><li>a</li><li>b</li></ul><ol start="3"><li>c</li></ol>'),
        ("| a |\n|---|\n| b |", "<table><thead><tr><th>a</th></tr></thead><tbody><tr><td>b</td></tr></tbody></table>"),
        ("```py\nx = '<'\n```", "<pre><code>x = &#x27;&lt;&#x27;\n</code></pre>"),
        ("> q\n\n---", "<blockquote><p>q</p></blockquote><hr>"),
        ("![plot](https://a.example/p.png)", "<p>[plot]</p>"),
        ("<div align=center>\nhi <b>you</b><!-- not\nthis -->!\n</div>", "<p>hi you!</p>"),
        ("[a](https://a.example/?x=1&y=2)", '<p><a href="https://a.example/?x=1&amp;y=2" rel="noopener noreferrer" target="_blank">a</a></p>'),
        ("", ""),
    ],
)  # fmt: skip
def test_markdown_is_formatted(text, page):
    assert Markdown(text).html() == page


@pytest.mark.parametrize(
    "text",
    [
        "word " * 500_000,
        "é" * 200_000,
        "<" * 200_000,
        "**a** " * 100_000,
        "[a](https://a.example) " * 50_000,
        "![" * 100_000,
    ],
)
def test_long_markdown_is_cut(text):
    assert len(Markdown(text).html().encode()) < HTML_LIMIT - 30_000
    assert len(Markdown(text).text()) < 40_000


def test_markdown_without_parser_is_plain_text(monkeypatch):
    monkeypatch.setitem(sys.modules, "markdown_it", None)
    assert Markdown("# a\n<script>").html() == "<pre># a\n&lt;script&gt;</pre>"
