"""What is true of theLook only is said of theLook only; limits that are not known are open."""

import ast
import re
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest

from lib import config, remarks, warehouse
from lib.charts import walk
from lib.config import ROOT
from lib.proof import leakage, sanity
from lib.training import inputs

NOTEBOOKS = [nbformat.read(path, as_version=4) for path in sorted(ROOT.glob("notebooks/0*.ipynb"))]


@pytest.fixture
def other(tmp_path):
    """A cloud with the settings of a shop's own orders."""
    settings = config.load(target="local", overrides={"source": str(tmp_path)})
    return SimpleNamespace(settings=settings)


@pytest.mark.parametrize("subject", remarks.THELOOK)
def test_a_remark_on_thelook_is_not_made_on_other_data(subject, other):
    assert repr(remarks.on(config.load(target="local"), subject)) == remarks.THELOOK[subject]
    shown = remarks.on(other.settings, subject)
    assert (shown is None) == (subject not in remarks.OTHER)
    assert "theLook" not in repr(shown)


def test_the_notebooks_show_every_remark_and_their_prose_has_no_other():
    cells = [cell for notebook in NOTEBOOKS for cell in notebook.cells]
    used = re.findall(r'remarks\.on\(settings, "([^"]+)"\)', "\n".join(c.source for c in cells))
    assert sorted(used) == sorted(remarks.THELOOK) and set(remarks.OTHER) <= set(used)
    assert not [c.id for c in cells if c.cell_type == "markdown" and "theLook" in c.source]


@pytest.mark.parametrize("module", ["walk", "proof"])
def test_no_chart_names_thelook(module):
    tree = ast.parse((ROOT / "lib" / "charts" / f"{module}.py").read_text(encoding="utf-8"))
    texts = [node.value for node in ast.walk(tree)
             if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert len(texts) > 100 and not [text for text in texts if "thelook" in text.lower()]


# --- limits that are not known ------------------------------------------------------------------

RATES = pd.DataFrame({
    "check": ["positive_rate", "positive_rate_at_1998-01-01"], "value": [0.678, 0.7],
    "low": 0.0, "high": 1.0, "status": "pass"})


def test_without_a_band_every_rate_passes_and_the_line_says_that_none_is_known(other, monkeypatch):
    monkeypatch.setattr(warehouse, "require_snapshot", lambda cloud: None)
    monkeypatch.setattr(warehouse, "run_checks", lambda cloud: RATES)
    parameters = warehouse.parameters(other.settings)
    assert (parameters["positive_rate_low"], parameters["positive_rate_high"]) == (0, 1)
    figures = sanity.check(other).figures
    assert figures["open"] == "label.positive_rate_band (no band is known for this source)"
    other.settings = config.load(target="local")
    assert "open" not in sanity.check(other).figures


def test_without_a_best_score_none_is_refused_and_the_line_says_so(other):
    outcome = leakage.check_honest(other, {"roc_auc": 0.99})
    assert outcome.figures["open"].startswith("checks.max_honest_roc_auc (")


def test_the_gate_of_the_training_is_open_in_the_same_two_places(other, monkeypatch):
    monkeypatch.setattr(warehouse, "built_at", lambda cloud, key: "1")
    monkeypatch.setattr(inputs, "sample_percent", lambda cloud: 100)  # asks for the table's rows
    thelook = SimpleNamespace(settings=config.load(target="local"))
    gate = ("min_roc_auc", "max_roc_auc", "positive_rate_low", "positive_rate_high")
    assert [inputs.parameters(other)[key] for key in gate] == [
        other.settings.train.min_roc_auc, 1.0, 0.0, 1.0]
    only = thelook.settings.thelook_only
    assert [inputs.parameters(thelook)[key] for key in gate[1:]] == [
        only.max_honest_roc_auc, *only.positive_rate_band]
    assert inputs.fingerprint(other) != inputs.fingerprint(thelook)


def test_label_rates_without_a_band_are_drawn_with_their_range():
    rates = pd.DataFrame({
        "label_timestamp": pd.to_datetime(["1998-01-01", "1998-01-08"], utc=True),
        "rows": [100, 100], "positive_rate": [0.6, 0.7]})
    text = repr(walk.labels_per_snapshot(rates, 60, None))
    assert "from 60.0% to 70.0% at the 2 snapshots" in text and "accepted" not in text
