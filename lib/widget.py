"""The live moment of notebook 07: pick a customer, fetch, predict, see why.

With nobody there (papermill, nbval) the same card is a static picture, so that a run's outputs
need no front end.
"""

import os
from collections.abc import Sequence
from html import escape

import pandas as pd

from lib import endpoint, errors, feature_store, lookups, predict
from lib.charts import walk as charts
from lib.charts.style import Chart

# Set by Jupyter's server for the kernels of its notebooks, by no unattended runner.
SESSION_VARIABLE = "JPY_SESSION_NAME"


def attended(run_dir: str = "") -> bool:
    """Whether somebody can press a button: a notebook in Jupyter, and no run's folder given."""
    return not run_dir and bool(os.environ.get(SESSION_VARIABLE))


def live(predictor: predict.Predictor, customers: Sequence[str], peers: pd.DataFrame,
         base_rate: float | None = None, interactive: bool | None = None):
    """A drop-down of customers with the card of the chosen one; its picture if unattended.

    Args:
        peers: rows of features_customer that each value is ranked among.
        base_rate: overall share of churn; by default read from the label table.
        interactive: by default `attended()`.

    Returns:
        An ipywidgets box, or the Chart of the first customer.
    """
    if base_rate is None:
        base_rate = lookups.base_rate(predictor.cloud)
    if not (attended() if interactive is None else interactive):
        return card(predictor.predict(customers[0]), peers, base_rate)
    return _controls(predictor, [str(c) for c in customers], peers, base_rate)


def card(answer: predict.Prediction, peers: pd.DataFrame, base_rate: float) -> Chart:
    """One customer's features with their percentiles, and the probability."""
    return charts.served_features(
        answer.features, predict.percentiles(answer.features, peers),
        answer.churn_probability, base_rate, answer.customer_id)


def _controls(predictor, customers: list[str], peers: pd.DataFrame, base_rate: float):
    import ipywidgets as widgets

    look = {"layout": {"width": "300px"}, "style": {"description_width": "90px"}}
    pick = widgets.Dropdown(options=customers, description="customer_id", **look)
    typed = widgets.Text(placeholder="any customer_id, then Enter", description="or type",
                         continuous_update=False, **look)
    again = widgets.Button(description="Fetch and predict", icon="refresh",
                           layout={"width": "auto"})
    told = widgets.HTML()
    picture = widgets.Image(format="png", layout={"max_width": "1000px"})

    def show(customer: str) -> None:
        told.value, again.disabled = f"asking for customer {escape(customer)} ...", True
        text, png = ask(predictor, customer, peers, base_rate)
        told.value, picture.value, again.disabled = text, png, False
        picture.layout.display = None if png else "none"

    def picked(change: dict) -> None:
        typed.value = ""
        show(change["new"])

    pick.observe(picked, names="value")
    typed.observe(lambda change: change["new"].strip() and show(change["new"].strip()),
                  names="value")
    again.on_click(lambda _: show(typed.value.strip() or pick.value))
    show(pick.value)
    return widgets.VBox([widgets.HBox([pick, typed, again]), told, picture])


def ask(predictor: predict.Predictor, customer: str, peers: pd.DataFrame,
        base_rate: float) -> tuple[str, bytes]:
    """(one line of HTML, the card as PNG) for a customer; b"" where there is no answer.

    A failure is told on the line: nobody reads the log of a kernel in front of an audience.
    """
    try:
        answer = predictor.predict(customer)
    except (feature_store.EntityNotServed, endpoint.NotDeployed) as error:
        return f"<b>No answer.</b> {escape(str(error))}", b""
    except Exception as error:
        told = errors.explain(error, "07_online_predict", f"customer {customer}",
                              predictor.cloud.settings) or error
        return f"<b>Failed.</b> <pre>{escape(str(told))}</pre>", b""
    taken = f"{answer.feature_timestamp:%Y-%m-%d}" if answer.feature_timestamp else "unknown"
    line = (f"Customer <b>{escape(answer.customer_id)}</b>: churn probability "
            f"<b>{answer.churn_probability:.1%}</b>. Features as of {taken}, fetched in "
            f"{answer.fetch_ms:.0f} ms, predicted in {answer.predict_ms:.0f} ms")
    return line, card(answer, peers, base_rate)._repr_png_()
