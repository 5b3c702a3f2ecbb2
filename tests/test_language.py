"""Korean and English: the catalog is complete, and one switch reaches what is shown."""

import re
import string
from collections import Counter

import nbformat
import pytest
from babel.messages import extract
from babel.messages.pofile import read_po

from lib import config, language, prose, remarks, show, stages
from lib.config import ROOT

KEYWORDS = {"tr": None, "mark": None}
METHODS = [("lib/report/**.j2", "jinja2.ext:babel_extract"), ("lib/**.py", "python")]
OPTIONS = {"jinja2.ext:babel_extract": {"trimmed": "true", "silent": "false"}}
HANGUL = re.compile("[가-힣]")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))


def sentences():
    """Every English sentence that `tr`, `mark` and the templates have, and those of config.yaml
    that are shown: sentence -> where it is."""
    found = {}
    for pattern, method in METHODS:
        for path in sorted(ROOT.glob(pattern.replace("**.", "**/*."))):
            if "ko" in path.name.split("."):
                continue
            with path.open("rb") as file:
                for line, sentence, *_ in extract.extract(
                        _function(method), file, KEYWORDS, options=OPTIONS.get(method, {})):
                    found.setdefault(sentence, f"{path.relative_to(ROOT)}:{line}")
    for feature in config.load(target="local").features:
        found |= {feature.description: "config.yaml", feature.unit: "config.yaml"}
    for step in config.load(target="local").plan:
        shown = step.name, step.basis, step.stage.replace("_", " ")
        found |= dict.fromkeys(shown, "config.yaml: plan")
    for notebook in NOTEBOOKS:  # the names of steps, which the list of resources shows
        code = notebook.read_text(encoding="utf-8")
        found[notebook.stem.replace("_", " ")] = notebook.name
        found |= dict.fromkeys(re.findall(r'run.step\(\\"([^"\\]+)', code), notebook.stem)
    found = {text: where for text, where in found.items() if not text.startswith("sql/")}
    found |= dict.fromkeys([*remarks.THELOOK.values(), *remarks.OTHER.values()], "remarks.py")
    return found


def _function(method):
    if method == "python":
        return method
    from jinja2.ext import babel_extract

    return babel_extract


def placeholders(sentence):
    """{names:with formats} and %(names)s of a sentence, with how often each occurs."""
    braces = [field for _, *field in string.Formatter().parse(sentence) if field[0] is not None]
    return Counter(map(str, braces)), Counter(re.findall(r"%\(\w+\)s", sentence))


@pytest.fixture(scope="module")
def catalog():
    with language.CATALOG.open("rb") as file:
        return [message for message in read_po(file, "ko") if message.id]


@pytest.fixture
def korean():
    language.use("ko")
    yield
    language.use("en")


def test_each_sentence_has_a_translation_and_each_translation_a_sentence(catalog):
    wanted = sentences()
    known = {message.id: message for message in catalog}
    assert len(wanted) > 3
    assert {s: wanted[s] for s in wanted if s not in known or not known[s].string} == {}
    assert [s for s in known if s not in wanted] == []
    assert [s for s in known if known[s].fuzzy] == []


def test_a_translation_has_the_same_placeholders_and_is_korean(catalog):
    for message in catalog:
        assert placeholders(message.id) == placeholders(message.string), message.id
        rest = re.sub(r"{[^}]*}|%\(\w+\)s", "", message.string)
        assert HANGUL.search(rest) or not re.search("[a-z]{2}", rest), message.id


def test_a_sentence_without_translation_stays_as_it_is(korean):
    assert language.tr("A feature of {name}'s own", name="a user") == "A feature of a user's own"
    assert language.tr("") == ""


def test_a_stage_is_shown_in_the_language_of_its_settings(tmp_path):
    try:
        stages.open_stage("02_features", config.load(overrides={"language": "ko"}), tmp_path)
        assert HANGUL.search(show.table(None).text)
        assert stages.read_summary(tmp_path)["language"] == "ko"
        stages.open_stage("02_features", config.load(overrides={"language": "en"}), tmp_path)
        assert show.table(None).text.startswith("No table")
    finally:
        language.use("en")


def test_a_table_shows_known_texts_in_korean_and_its_columns_as_they_are(korean):
    features = [each.model_dump() for each in config.load(target="local").features]
    shown = show.table([*features, {"name": "mine", "unit": "boxes", "description": "My own"}],
                       columns=["name", "unit", "description"])
    first, *rows, own = shown.text.splitlines()
    assert first.split() == ["name", "unit", "description"] and own.split("  ")[-1] == "My own"
    assert len(rows) == len(features) and all(HANGUL.search(row) for row in rows)


def test_another_language_is_refused():
    with pytest.raises(config.ConfigError, match="language = 'fr': Input should be 'en' or 'ko'"):
        config.load(overrides={"language": "fr"})
    with pytest.raises(ValueError, match="'fr': one of en, ko"):
        language.use("fr")


def test_a_notebook_is_executed_with_the_prose_of_the_language(tmp_path):
    (tmp_path / "notebooks" / "ko").mkdir(parents=True)
    path = tmp_path / "notebooks" / "01_data.ipynb"
    cells = [nbformat.v4.new_markdown_cell("# Data", id="01-01"),
             nbformat.v4.new_code_cell("1 + 1", id="01-02", execution_count=3),
             nbformat.v4.new_markdown_cell("Not translated", id="01-03a")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    (tmp_path / "notebooks" / "ko" / "01_data.md").write_text(
        "<!-- 01-01 -->\n# 데이터\n\n두 번째 문단\n", encoding="utf-8")
    assert prose.localized(path, "en") == path
    copy = prose.localized(path, "ko")
    assert copy.parent == tmp_path / "notebooks_ko"  # `../lib` is there too
    assert [cell.source for cell in nbformat.read(copy, 4).cells] == [
        "# 데이터\n\n두 번째 문단", "1 + 1", "Not translated"]
    assert nbformat.read(path, 4).cells[1].execution_count == 3


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_cell_of_prose_is_translated_with_the_same_code_and_links(notebook):
    english, korean = (prose.read(notebook, name) for name in language.LANGUAGES)
    assert list(korean) == list(english) != []
    for cell, text in english.items():
        assert HANGUL.search(korean[cell]), cell
        for same in (r"`[^`]+`", r"\]\(([^)]+)\)"):  # code, and where links lead
            assert set(re.findall(same, korean[cell])) == set(re.findall(same, text)), cell
        heading = re.match("#* ", text)
        assert not heading or korean[cell].startswith(heading[0]), cell
