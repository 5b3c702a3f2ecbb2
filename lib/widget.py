"""The interactive card of notebook 07: pick a customer, fetch, predict, see why.

In an unattended run (papermill, nbval) the same card is a static picture, so that the outputs
need no front end.
"""

import os
from collections.abc import Sequence
from html import escape

import pandas as pd

from lib import endpoint, errors, feature_store, lookups, predict
from lib.charts import walk as charts
from lib.charts.style import Chart

# Set by Jupyter's server for the kernels of its notebooks, but not by papermill or nbval.
SESSION_VARIABLE = "JPY_SESSION_NAME"


def attended(run_dir: str = "") -> bool:
    """True if a user can press a button: a notebook in Jupyter that is not part of a run."""
    return not run_dir and bool(os.environ.get(SESSION_VARIABLE))


def live(predictor: predict.Predictor, customers: Sequence[str], peers: pd.DataFrame,
         base_rate: float | None = None, interactive: bool | None = None):
    """A drop-down of customers with the card of the chosen one; a static picture if unattended.

    Args:
        peers: rows of features_customer; each value is ranked among theirs.
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


def card(prediction: predict.Prediction, peers: pd.DataFrame, base_rate: float) -> Chart:
    """One customer's features with their percentiles, and the probability."""
    return charts.served_features(
        prediction.features, predict.percentiles(prediction.features, peers),
        prediction.churn_probability, base_rate, prediction.customer_id)


def _controls(predictor, customers: list[str], peers: pd.DataFrame, base_rate: float):
    import ipywidgets as widgets  # an unattended run does not need it

    style = {"layout": {"width": "300px"}, "style": {"description_width": "90px"}}
    pick = widgets.Dropdown(options=customers, description="customer_id", **style)
    typed = widgets.Text(placeholder="any customer_id, then Enter", description="or type",
                         continuous_update=False, **style)
    button = widgets.Button(description="Fetch and predict", icon="refresh",
                            layout={"width": "auto"})
    message = widgets.HTML()
    picture = widgets.Image(format="png", layout={"max_width": "1000px"})

    def show(customer: str) -> None:
        message.value, button.disabled = f"predicting for customer {escape(customer)} ...", True
        message.value, picture.value = answer(predictor, customer, peers, base_rate)
        button.disabled = False
        picture.layout.display = None if picture.value else "none"

    def on_pick(change: dict) -> None:
        typed.value = ""
        show(change["new"])

    pick.observe(on_pick, names="value")
    typed.observe(lambda change: change["new"].strip() and show(change["new"].strip()),
                  names="value")
    button.on_click(lambda _: show(typed.value.strip() or pick.value))
    show(pick.value)
    return widgets.VBox([widgets.HBox([pick, typed, button]), message, picture])


def answer(predictor: predict.Predictor, customer: str, peers: pd.DataFrame,
           base_rate: float) -> tuple[str, bytes]:
    """(one line of HTML, the card as PNG) for a customer; no PNG (b"") if the prediction failed.

    The line shows the error, because an audience does not see the log of a kernel.
    """
    try:
        prediction = predictor.predict(customer)
    except (feature_store.EntityNotServed, endpoint.NotDeployed) as error:
        return f"<b>No answer.</b> {escape(str(error))}", b""
    except Exception as error:
        explained = errors.explain(error, "07_online_predict", f"customer {customer}",
                                   predictor.cloud.settings) or error
        return f"<b>Failed.</b> <pre>{escape(str(explained))}</pre>", b""
    stamp = prediction.feature_timestamp
    line = (f"Customer <b>{escape(prediction.customer_id)}</b>: churn probability "
            f"<b>{prediction.churn_probability:.1%}</b>. Features as of "
            f"{f'{stamp:%Y-%m-%d}' if stamp else 'unknown'}, fetched in "
            f"{prediction.fetch_ms:.0f} ms, predicted in {prediction.predict_ms:.0f} ms")
    return line, card(prediction, peers, base_rate)._repr_png_()
