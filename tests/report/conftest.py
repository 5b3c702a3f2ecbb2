"""Most pages of these tests differ in a few words: a chart is drawn once for its figures, and
config.yaml read once."""

import functools
import json
import os

import pytest

from lib import config, language
from lib.charts import walk
from lib.charts.style import Chart
from lib.report import facts, report

OF_PLAN = ("target", "env", "seconds", "stages", "background")  # what it uses of a run
KNOWN: dict[str, object] = {}
PNG = functools.cache(Chart._repr_png_)


def once(make, used):
    """`make`, called once for what it `used` of its arguments, the language and config.yaml."""
    def made(*given):
        key = json.dumps([make.__name__, used(*given), language.current(),
                          os.environ.get(config.CONFIG_VARIABLE)], default=str)
        if key not in KNOWN:
            KNOWN[key] = make(*given)
        return KNOWN[key]

    return made


@pytest.fixture(autouse=True)
def made_once(monkeypatch):
    monkeypatch.setattr(facts, "settings_of", once(
        facts.settings_of, lambda run: [run["target"], run["env"]]))
    monkeypatch.setattr(report, "planned", once(
        report.planned, lambda run: [run.get(key) for key in OF_PLAN]))
    monkeypatch.setattr(report, "core_charts", once(
        report.core_charts, lambda known: known["run"]["leakage"]))
    monkeypatch.setattr(walk, "architecture", once(walk.architecture, lambda: []))
    monkeypatch.setattr(Chart, "_repr_png_", PNG)
