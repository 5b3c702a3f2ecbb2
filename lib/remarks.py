"""Sentences of the notebooks that are true of some data only: of theLook, or of all other data.

The prose of a notebook is the same for each source; what it says of theLook alone is here, and
shown as an output of the cell that it explains.
"""

from lib import show
from lib.config import Settings
from lib.language import tr

THELOOK = {
    "snapshot":
        "theLook changes more than most: it is **generated anew every day**, and every id changes "
        "with it.",
    "last week":
        "The jump in the last week is an artefact of how theLook is made: its generator signs up "
        "2.5% of all users in the final days. It is not demand.",
    "orders per customer":
        "Most have not ordered for months: theLook's customers order one to four times in their "
        "lives.",
    "drift":
        "The churn rate drifts **down** towards the end. The drift comes from the source: "
        "theLook's orders are spread evenly from sign-up to the end of the data. A split by time "
        "therefore always tests on a lower rate than it trained on.",
    "leaking columns":
        "Every column that counts orders over a long time knows the answer; those over 30 days "
        "seldom reach back to it. `tenure_days` counts no orders, and predicts hardly better than "
        "before.",
    "best score":
        "How much is there to learn? theLook is synthetic: a random process makes its customers, "
        "and the only signal is how many orders a customer has left and how long ago they signed "
        "up. In theory the best possible ROC-AUC on this data is 0.80. **A higher score would be "
        "a leak**, and the run would stop.",
    "calibration":
        "theLook's test weeks have a lower churn rate than its training weeks, so we expect "
        "predictions that are a little too high.",
    "why not more":
        "*Why not 0.9?* theLook draws the time of each order evenly between sign-up and the end of "
        "the data, independent of price, category, returns and earlier orders. So the nine "
        "behaviour columns alone reach 0.58 to 0.59; how long someone has been a customer, and how "
        "many orders they have placed, add the rest. On real customers behaviour does carry "
        "signal. Here a score in the 0.7s is what an honest model can reach, and a 0.9 would be a "
        "mistake.",
}
OTHER = {
    "best score":
        "How much is there to learn? For these data nobody knows the best possible score, so none "
        "is refused as too high. If you know one, `checks.max_honest_roc_auc` in `config.yaml` "
        "makes a higher score end the run; the checks of notebook 3 hold in any case.",
}


def on(settings: Settings, subject: str) -> show.Shown | None:
    """What is to say of this source about a subject, a key of THELOOK; None: nothing.

    Raises:
        KeyError: there is no such subject.
    """
    known = THELOOK[subject]
    sentence = known if settings.is_thelook else OTHER.get(subject)
    return show.note(tr(sentence)) if sentence else None
