"""What reaches a terminal: text, and nothing that a terminal would obey.

Names come from files and from other users. One with a line feed makes a false row in a table; one with an escape code sets the
window's title, moves the cursor, or hides what stands before it.
"""

from __future__ import annotations

import re

import click

# C0 but tab and line feed, DEL, C1; and marks that turn the direction of writing around (Unicode TR 36, "bidirectional text spoofing").
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def shown(text: str, *, lines: bool = True) -> str:
    r"""The text with what a terminal would obey written out; with `lines` false, line feeds and tabs too.

    >>> shown("a\x1b]0;owned\x07b"), shown("a\nb", lines=False)
    ('a\\x1b]0;owned\\x07b', 'a\\nb')
    """
    if not text.isascii():  # half a character, as file names that are no UTF-8 have, is nothing that a terminal can be sent
        text = text.encode("utf-8", "backslashreplace").decode()
    text = _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return text if lines else text.replace("\n", "\\n").replace("\t", "\\t")


def say(text: str = "", *, err: bool = False) -> None:
    """Prints a line, or several, with nothing in it that a terminal obeys."""
    click.echo(shown(text), err=err)
