"""The language of what a reader sees: English in the code, Korean in ko.po (README: "Languages").

`tr` translates a sentence to the language that `use` has chosen, where the sentence is shown.
Log lines, error messages, names and the columns of tables are English in each language.
"""

import functools
import gettext
import io
from datetime import datetime
from pathlib import Path

LANGUAGES = ("en", "ko")
CATALOG = Path(__file__).with_name("ko.po")

_chosen = "en"


def use(language: str) -> None:
    """Choose the language, one of LANGUAGES, of all that is shown from now on."""
    global _chosen
    if language not in LANGUAGES:
        raise ValueError(f"language = {language!r}: one of {', '.join(LANGUAGES)}")
    _chosen = language


def current() -> str:
    """The language that `use` has chosen; at first English."""
    return _chosen


def tr(sentence: str, /, **values: object) -> str:
    """The sentence in the chosen language, with {names} filled by `values` as str.format does.

    A sentence without a translation stays as it is, such as the description of a user's feature.
    """
    found = _korean().gettext(sentence) if _chosen == "ko" and sentence else sentence
    return found.format(**values) if values else found


def mark(sentence: str) -> str:
    """The sentence itself: one that is defined here, and translated where it is shown."""
    return sentence


def day(moment: datetime) -> str:
    """4 May 2026 or 2026년 5월 4일, with spaces at which no line ends."""
    text = (f"{moment.year}년 {moment.month}월 {moment.day}일" if _chosen == "ko" else
            f"{moment.day} {moment:%b %Y}")
    return text.replace(" ", "\N{NO-BREAK SPACE}")


@functools.cache
def _korean() -> gettext.GNUTranslations:
    """The catalog; gettext reads the compiled form, which is made in memory."""
    from babel.messages.mofile import write_mo
    from babel.messages.pofile import read_po

    compiled = io.BytesIO()
    with CATALOG.open("rb") as file:
        write_mo(compiled, read_po(file, "ko"))
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)
