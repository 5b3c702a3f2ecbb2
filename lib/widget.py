"""The panel of notebook 07: pick a customer, fetch, predict, see the values behind the answer.

It is a picture and, below it, the controls that change it. The picture is an output of its own, so
that it is there wherever controls cannot work: in slides, in a saved notebook, on a web page. An
unattended run (papermill, nbval) has the picture only.
"""

import os
from collections.abc import Sequence
from html import escape

import pandas as pd
from IPython.display import display

from lib import endpoint, errors, feature_store, predict
from lib.charts import walk as charts
from lib.charts.style import Chart
from lib.config import ENTITY
from lib.language import mark, tr

# Set by Jupyter's server for the kernels of its notebooks, but not by papermill or nbval.
SESSION_VARIABLE = "JPY_SESSION_NAME"
NO_CONTROLS = mark("(Here are controls to choose a customer: run this cell in JupyterLab.)")


def attended(run_dir: str = "") -> bool:
    """True if a user can press a button: a notebook in Jupyter that is not part of a run."""
    return not run_dir and bool(os.environ.get(SESSION_VARIABLE))


def live(predictor: predict.Predictor, answers: Sequence[predict.Prediction],
         peers: pd.DataFrame, base_rate: float, interactive: bool | None = None):
    """The panel, at first with the least and the most likely of `answers` to churn.

    Args:
        peers: the rows of the active customers (lookups.active_features); each value is ranked
            among theirs.
        base_rate: the share of churn among them.
        interactive: by default `attended()`.

    Returns:
        A Panel, or its first picture (a Chart).
    """
    panel = Panel(predictor, answers, peers, base_rate)
    return panel if (attended() if interactive is None else interactive) else panel.picture


def extremes(answers: Sequence[predict.Prediction]) -> list[predict.Prediction]:
    """The answers with the lowest and the highest probability; one if there is only one."""
    ranked = sorted(answers, key=lambda answer: answer.churn_probability)
    return [ranked[0], *ranked[1:][-1:]]


class Panel:
    """What Jupyter shows as two outputs: `picture`, and controls that replace it."""

    def __init__(self, predictor: predict.Predictor, answers: Sequence[predict.Prediction],
                 peers: pd.DataFrame, base_rate: float):
        self._predictor, self._answers = predictor, answers
        self._peers, self._base_rate = peers, base_rate
        self.picture = self._card(extremes(answers))

    def ask(self, customers: Sequence[str]) -> tuple[str, Chart | None]:
        """(HTML, picture) for these customers; no picture if a prediction failed.

        The HTML shows the error, because an audience does not see the log of a kernel.
        """
        try:
            found = [self._predictor.predict(customer) for customer in customers]
        except (feature_store.EntityNotServed, endpoint.NotDeployed) as error:
            return tr("<b>No answer.</b> {error}", error=escape(str(error))), None
        except Exception as error:
            explained = errors.explain(error, "07_online_predict",
                                       f"customer {', '.join(customers)}",
                                       self._predictor.cloud.settings) or error
            return tr("<b>Failed.</b> <pre>{error}</pre>", error=escape(str(explained))), None
        return "<br>".join(map(self._line, found)), self._card(found)

    def _line(self, answer: predict.Prediction) -> str:
        stamp = answer.feature_timestamp
        line = tr("Customer <b>{customer}</b>: churn probability <b>{probability:.1%}</b>. "
                  "Features as of {time}, fetched in {fetch:.0f} ms, predicted in {predict:.0f} "
                  "ms.",
                  customer=escape(answer.customer_id), probability=answer.churn_probability,
                  time=f"{stamp:%Y-%m-%d}" if stamp else tr("unknown"),
                  fetch=answer.fetch_ms, predict=answer.predict_ms)
        if answer.customer_id not in set(self._peers[ENTITY]):
            line += " " + tr(
                "<b>No order in the last {days} days</b>: the model was not trained on such "
                "customers, and the base rate does not count them.", days=self._active_days)
        return line

    def _card(self, answers: Sequence[predict.Prediction]) -> Chart:
        return charts.served_features(
            [{"customer_id": answer.customer_id, "probability": answer.churn_probability,
              "features": answer.features,
              "percentiles": predict.percentiles(answer.features, self._peers)}
             for answer in answers], self._base_rate, self._active_days)

    @property
    def _active_days(self) -> int:
        return self._predictor.cloud.settings.label.active_days

    def _ipython_display_(self) -> None:
        """Jupyter calls it where a cell ends with a Panel."""
        shown = display(self.picture, display_id=True)
        # The text is for where controls cannot be shown; the widget's own would be its code.
        display({**self.controls(shown.update)._repr_mimebundle_(), "text/plain": tr(NO_CONTROLS)},
                raw=True)

    def controls(self, replace):
        """A drop-down, a text field and a button. They call `replace` with a Chart to show, or
        with a bundle and raw=True."""
        import ipywidgets as widgets  # an unattended run does not need it

        style = {"layout": {"width": "300px"}, "style": {"description_width": "90px"}}
        both = tuple(answer.customer_id for answer in extremes(self._answers))
        pick = widgets.Dropdown(
            options=[(tr("lowest and highest"), both)] + [
                (answer.customer_id, (answer.customer_id,)) for answer in self._answers],
            description="customer_id", **style)
        typed = widgets.Text(placeholder=tr("any customer_id, then Enter"),
                             description=tr("or type"), continuous_update=False, **style)
        button = widgets.Button(description=tr("Fetch and predict"), icon="refresh",
                                layout={"width": "auto"})
        message = widgets.HTML("<br>".join(map(self._line, extremes(self._answers))))

        def show(customers: Sequence[str]) -> None:
            message.value = tr("predicting for customer {customers} ...",
                               customers=escape(", ".join(customers)))
            button.disabled = True
            message.value, self.picture = self.ask(customers)
            button.disabled = False
            if self.picture:
                replace(self.picture)
            else:
                replace({"text/html": message.value}, raw=True)

        def on_pick(change: dict) -> None:
            typed.value = ""
            show(change["new"])

        pick.observe(on_pick, names="value")
        typed.observe(lambda change: change["new"].strip() and show([change["new"].strip()]),
                      names="value")
        button.on_click(lambda _: show([typed.value.strip()] if typed.value.strip()
                                       else pick.value))
        return widgets.VBox([widgets.HBox([pick, typed, button]), message])
