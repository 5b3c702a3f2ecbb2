"""The interactive card of notebook 07, without a front end."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pandas as pd
import pytest

from lib import widget
from lib.charts import walk as charts
from lib.feature_store import EntityNotServed
from lib.predict import Prediction

PEERS = pd.DataFrame({"orders_90d": [0, 1, 2, 3], "tenure_days": [10, 20, 30, 40]})


class Predictor:
    """Answers for customers 1 and 2."""

    def __init__(self, settings):
        self.cloud, self.asked = SimpleNamespace(settings=settings), []

    def predict(self, customer):
        self.asked.append(customer)
        if customer == "broken":
            raise ConnectionError("socket closed")
        if customer not in "12":
            raise EntityNotServed(f"customer {customer} is not in the feature view")
        return Prediction(customer, 0.9 if customer == "1" else 0.6,
                          {"orders_90d": 1, "tenure_days": None},
                          datetime(2026, 7, 3, tzinfo=UTC), 3.2, 11.8)


@pytest.fixture
def predictor(settings):
    return Predictor(settings)


def controls(box):
    (pick, typed, button), message, picture = box.children[0].children, *box.children[1:]
    return pick, typed, button, message, picture


def test_unattended_it_is_the_picture_of_the_first_customer(predictor, monkeypatch):
    monkeypatch.delenv(widget.SESSION_VARIABLE, raising=False)
    shown = widget.live(predictor, ["1", "2"], PEERS, base_rate=0.85)
    assert isinstance(shown, charts.Chart) and predictor.asked == ["1"]
    assert "Customer 1: churn probability 90.0%" in repr(shown)


def test_it_is_attended_in_jupyter_without_a_runs_folder(monkeypatch):
    monkeypatch.setenv(widget.SESSION_VARIABLE, "notebooks/07_online_predict.ipynb")
    assert widget.attended() and not widget.attended("runs/20260101")
    monkeypatch.delenv(widget.SESSION_VARIABLE)
    assert not widget.attended()


def test_choosing_a_customer_fetches_and_predicts(predictor):
    pick, _, button, message, picture = controls(
        widget.live(predictor, ["1", "2"], PEERS, 0.85, interactive=True))
    assert "90.0%" in message.value and bytes(picture.value).startswith(b"\x89PNG")
    first = bytes(picture.value)
    pick.value = "2"
    assert "60.0%" in message.value and "2026-07-03" in message.value
    assert bytes(picture.value) != first
    button.click()
    assert predictor.asked == ["1", "2", "2"] and not button.disabled


def test_a_typed_customer_that_is_unknown_is_a_clear_answer(predictor):
    pick, typed, button, message, picture = controls(
        widget.live(predictor, ["1", "2"], PEERS, 0.85, interactive=True))
    typed.value = " <9> "
    assert "customer &lt;9&gt; is not in the feature view" in message.value
    assert bytes(picture.value) == b"" and picture.layout.display == "none"
    typed.value = "2"
    assert "60.0%" in message.value and picture.layout.display is None
    pick.value = "2"
    button.click()
    assert typed.value == "" and predictor.asked[-3:] == ["2", "2", "2"]


def test_a_failure_is_shown_on_the_card(predictor):
    text, png = widget.answer(predictor, "broken", PEERS, 0.85)
    assert "Failed" in text and "socket closed" in text and png == b""
