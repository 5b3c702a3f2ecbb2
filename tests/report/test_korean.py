"""The pages in Korean: nothing but names and what a run has drawn stays English."""

import json
import re
import shutil

import nbformat
import pytest

from lib import language
from lib.config import ROOT
from lib.report import report
from tests.report.test_report import BARE, FULL, assert_offline, soup

NAMES = set("""theLook eCommerce BigQuery Vertex Feature Store Google Cloud Bigtable dev customer
    point in time join ms summary json report html leakage parity freshness latency feature churn
    online store endpoint sync naive RISE notebook config yaml JupyterLab local standard""".split())
CHANGED = {**FULL, "stages": [], "labels": None, "metrics": None,
           "leakage": {**FULL["leakage"], "future": None},
           "parity": {**FULL["parity"], "mismatches": 3, "faults_caught": {}},
           "freshness": {**FULL["freshness"], "served": None}}


def english(read):
    """English words that a reader sees, without code, names of resources and SQL files, charts,
    and what the notebooks of an English run show."""
    for tag in read.select("style, script, code, pre, figcaption, .book, .resources td, "
                           "#plan ~ .table td, .appendix .table, .appendix figure"):
        tag.decompose()
    words = re.findall(r"[A-Za-z]*[a-z]{2}[A-Za-z]*", read.get_text(" "))
    return set(words) - NAMES


@pytest.mark.parametrize("run", [FULL, BARE, CHANGED], ids=["full", "bare", "changed"])
@pytest.mark.parametrize("target", ["local", "gcp"])
def test_the_korean_pages_of_an_english_run_are_korean(tmp_path, run, target):
    (tmp_path / "summary.json").write_text(json.dumps({**run, "target": target}))
    shutil.copy(ROOT / "notebooks" / "05_train.ipynb", tmp_path)
    try:
        pages = [report.build(tmp_path, lang="ko"), report.slides(tmp_path, lang="ko")]
    finally:
        language.use("en")
    for page in pages:
        assert_offline(page)
        read = soup(page)
        assert read.html["lang"] == "ko"
        headings = read.select("h1, h2, h3, h4")
        assert [h.get_text() for h in headings if not re.search("[가-힣]", h.get_text())] == []
        assert english(read) == set()
    book = soup(pages[0]).select_one("article.book")  # its prose is found by the cell
    assert "부풀리지 않은 점수" in book.get_text() and "Takeaways" not in book.get_text()


def test_a_korean_run_makes_korean_pages_and_a_reader_may_ask_for_english(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({**FULL, "language": "ko"}))
    korean = nbformat.read(ROOT / "notebooks" / "05_train.ipynb", as_version=4)
    for cell in korean.cells:
        if cell.cell_type == "markdown":
            cell.source = "한국어"
    nbformat.write(korean, tmp_path / "05_train.ipynb")
    try:
        assert soup(report.build(tmp_path)).html["lang"] == "ko"
        read = soup(report.build(tmp_path, lang="en"))
    finally:
        language.use("en")
    assert read.html["lang"] == "en" and "What was built" in read.get_text()
    assert "Takeaways" in read.select_one("article.book").get_text()
