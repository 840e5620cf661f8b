"""HTML that cannot be injected into: whatever is not `Html` already is escaped where it enters an element.

Text comes from configurations, error messages and host names, so none of it is trusted. Figures have their own rules:
plotly reads a little HTML in its labels, and a script element ends at the first `</script` whatever surrounds it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from typing import Any

_VOID = frozenset({"br", "col", "hr", "input", "meta", "wbr"})


class Html(str):
    """Markup that is safe to show as it is."""

    __slots__ = ()

    def __add__(self, other: str) -> Html:
        return join((self, other))


def element(name: str, /, *children: object, **attributes: object) -> Html:
    """One element; a trailing or inner underscore of an attribute is dropped or becomes a dash (`class_`, `data_sort`).

    Attributes that are None or False are left out, True ones have no value. Children that are None are left out.
    """
    written = "".join(
        f" {key.strip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{written}>" + ("" if name in _VOID else f"{join(children)}</{name}>"))


def join(children: Iterable[object], between: str = "") -> Html:
    """Children one after the other, each escaped unless it is `Html`."""
    return Html(
        escape(between).join(
            child if isinstance(child, Html) else escape(str(child)) for child in children if child is not None
        )
    )


def script_json(document: Any) -> Html:
    """A JSON document that may stand inside of a script element. Raises ValueError for NaN and infinity."""
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    return Html(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def plain(label: object) -> str:
    """A label as plotly shows it letter by letter: plotly would read tags, and links, in it."""
    return escape(str(label), quote=False)
