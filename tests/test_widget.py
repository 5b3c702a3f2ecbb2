"""The panel of notebook 07, without a front end; what shows it without one is nbconvert."""

from datetime import UTC, datetime
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter

from lib import widget
from lib.charts import walk as charts
from lib.config import ROOT
from lib.feature_store import EntityNotServed
from lib.operate import kernels
from lib.predict import Prediction
from lib.report import notebook_html

PEERS = pd.DataFrame({"customer_id": ["1", "2", "3", "4"], "orders_90d": [0, 1, 2, 3],
                      "tenure_days": [10, 20, 30, 40]})
PROBABILITIES = {"1": 0.9, "2": 0.6, "3": 0.95, "silent": 0.99}


class Predictor:
    """Answers for the customers of PROBABILITIES."""

    def __init__(self, settings):
        self.cloud, self.asked = SimpleNamespace(settings=settings), []

    def predict(self, customer):
        self.asked.append(customer)
        if customer == "broken":
            raise ConnectionError("socket closed")
        if customer not in PROBABILITIES:
            raise EntityNotServed(f"customer {customer} is not in the feature view")
        return Prediction(customer, PROBABILITIES[customer],
                          {"orders_90d": 1, "tenure_days": None},
                          datetime(2026, 7, 3, tzinfo=UTC), 3.2, 11.8)


@pytest.fixture
def predictor(settings):
    return Predictor(settings)


@pytest.fixture
def panel(predictor):
    answers = [predictor.predict(customer) for customer in "123"]
    predictor.asked.clear()
    return widget.live(predictor, answers, PEERS, 0.85, interactive=True)


@pytest.fixture
def shown():
    """What the controls had shown, newest last."""
    return []


@pytest.fixture
def controls(panel, shown):
    """The drop-down, the text field, the button and the message."""
    box = panel.controls(lambda new, **_: shown.append(new))
    return *box.children[0].children, box.children[1]


def test_at_first_it_shows_the_least_and_the_most_likely_to_churn(panel, predictor):
    assert predictor.asked == []  # they are known
    assert repr(panel.picture) == (
        "<Figure: Customer 2: churn probability 60.0%, 25.0 points below the base rate; "
        "customer 3: churn probability 95.0%, 10.0 points above the base rate>")


def test_unattended_it_is_that_picture_alone(predictor, monkeypatch):
    monkeypatch.delenv(widget.SESSION_VARIABLE, raising=False)
    only = [predictor.predict("1")]
    shown = widget.live(predictor, only, PEERS, 0.898)
    assert isinstance(shown, charts.Chart)
    assert repr(shown) == "<Figure: Customer 1: churn probability 90.0%, at the base rate>"


def test_it_is_attended_in_jupyter_without_a_runs_folder(monkeypatch):
    monkeypatch.setenv(widget.SESSION_VARIABLE, "notebooks/07_online_predict.ipynb")
    assert widget.attended() and not widget.attended("runs/20260101")
    monkeypatch.delenv(widget.SESSION_VARIABLE)
    assert not widget.attended()


def test_choosing_a_customer_fetches_predicts_and_replaces_the_picture(
        controls, predictor, shown):
    pick, _, button, message = controls
    assert "60.0%" in message.value and "95.0%" in message.value
    pick.value = ("1",)
    assert "90.0%" in message.value and "2026-07-03" in message.value
    button.click()
    assert predictor.asked == ["1", "1"] and not button.disabled
    pick.index = 0
    assert predictor.asked[2:] == ["2", "3"]
    assert [repr(chart)[:20] for chart in shown] == [
        "<Figure: Customer 1:", "<Figure: Customer 1:", "<Figure: Customer 2:"]


def test_a_typed_customer_that_is_unknown_is_a_clear_answer(controls, predictor, shown):
    pick, typed, button, message = controls
    typed.value = " <9> "
    said = "customer &lt;9&gt; is not in the feature view"
    assert said in message.value and said in shown[-1]["text/html"]  # and no other's picture
    typed.value = "2"
    assert "60.0%" in message.value and isinstance(shown[-1], charts.Chart)
    pick.value = ("1",)
    button.click()
    assert typed.value == "" and predictor.asked[-3:] == ["2", "1", "1"]


def test_it_says_if_the_base_rate_does_not_count_a_customer(panel):
    assert "No order in the last 90 days" in panel.ask(["silent"])[0]
    assert "No order" not in panel.ask(["1"])[0]


def test_a_failure_is_shown_on_the_panel(panel):
    text, picture = panel.ask(["broken"])
    assert "Failed" in text and "socket closed" in text and picture is None


CELL = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from lib import config, widget
from tests.test_widget import PEERS, Predictor
predictor = Predictor(config.load(target="local", env="dev"))
widget.live(predictor, [predictor.predict(c) for c in "123"], PEERS, 0.85, interactive=True)
"""


def test_a_saved_notebook_shows_the_picture_on_any_page(tmp_path):
    """As the repository's web page, nbconvert and the report show it: without a kernel."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    kernels.warm()
    NotebookClient(book, kernel_manager_class=kernels.Kernels, store_widget_state=False).execute()
    picture, controls = book.cells[0].outputs
    assert set(picture.data) == {"image/png", "text/plain"}
    assert set(controls.data) == {"application/vnd.jupyter.widget-view+json", "text/plain"}
    page, _ = HTMLExporter().from_notebook_node(book)
    assert "data:image/png;base64," in page and widget.NO_CONTROLS in page
    nbformat.write(book, tmp_path / "07_x.ipynb")
    (cell,) = notebook_html.read_book(tmp_path / "07_x.ipynb").cells
    assert cell.chart and 'alt="Customer 2: churn probability 60.0%' in cell.html
    assert "works only in JupyterLab" in cell.html
