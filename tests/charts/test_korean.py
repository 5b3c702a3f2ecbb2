"""The charts in Korean: every text is translated, has its glyphs, and keeps its place."""

import re
import warnings

import pytest

from lib import language
from tests.charts import test_proof, test_walk
from tests.charts.conftest import check_texts, shown_texts

CHARTS = {**{name: draw for name, (draw, _) in test_proof.CASES.items()}, **test_walk.CHARTS}
# Names, which are the same in each language: of features, tables, services, metrics, components.
NAMES = re.compile(
    r"[a-z]+(_[a-z0-9]*)+|customer|train|valid|test|eval|approve|dense|d|ms|p\d*|recall|precision|"
    r"BigQuery|a|b")


@pytest.fixture
def korean():
    language.use("ko")
    yield
    language.use("en")


@pytest.mark.parametrize("name", CHARTS)
def test_a_korean_chart_has_its_glyphs_its_place_and_no_english_words(name, korean):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as: Glyph 44032 missing from font(s)
        chart = CHARTS[name]()
        check_texts(chart)
    words = {word for text, _ in shown_texts(chart)
             for word in re.findall(r"[A-Za-z_]*[a-z][A-Za-z0-9_]*", text)}
    assert {word for word in words if not NAMES.fullmatch(word)} == set()
