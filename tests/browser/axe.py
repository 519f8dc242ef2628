"""Checks of accessibility by axe-core in a page of the browser."""

from typing import Any

from tests.support import peers

PROGRAM = peers.FOLDER / "axe" / "node_modules" / "axe-core" / "axe.min.js"

_RUN = """async ([selector, rules]) => {
  const disabled = Object.fromEntries(rules.map(rule => [rule, { enabled: false }]));
  const found = await axe.run(selector ? { include: [[selector]] } : document, { resultTypes: ['violations'], rules: disabled });
  return found.violations.map(({ id, impact, help, nodes }) => [impact, id, help, nodes.map(node => node.html.slice(0, 300))]);
}"""


def problems(page: Any, selector: str = "", *, without: tuple[str, ...] = ()) -> list[str]:
    """Return the serious and critical violations in a page, or skip the test without axe-core.

    Args:
        page: A page of Playwright.
        selector: Check only what is inside this element; "" checks the whole page.
        without: Rules that are not checked.
    """
    if not PROGRAM.is_file():
        peers.absent("axe-core is missing: run `bash .ci/peers`")
    if not page.evaluate("'axe' in window"):
        page.evaluate(PROGRAM.read_text("utf-8"))
    found = page.evaluate(_RUN, [selector, list(without)])
    return [
        f"{impact}: {rule} ({text}): {node}"
        for impact, rule, text, nodes in found
        if impact in {"serious", "critical"}
        for node in nodes
    ]
