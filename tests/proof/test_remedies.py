"""A failed sanity check names the setting that helps, and following it leads to data that pass."""

import dataclasses
import random
import re
import warnings
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from lib import config, source, source_load, warehouse
from lib.errors import Needed
from lib.proof import sanity

DAY = timedelta(days=1)
NEWEST = datetime(2026, 3, 10, 12, tzinfo=UTC)


def make(days, per_day, users, with_items=1.0, keep_items=lambda at: True):
    """A random export: users sign up before all, and order evenly over time."""
    rng = random.Random(5)
    orders = [{"order_id": n, "user_id": rng.randint(1, users),
               "created_at": NEWEST - DAY * (n / per_day)} for n in range(days * per_day)]
    items = [{"id": o["order_id"], "order_id": o["order_id"], "product_id": 1, "sale_price": 5.0,
              "returned_at": None} for o in orders
             if rng.random() < with_items and keep_items(o["created_at"])]
    return {"users": [{"id": n, "created_at": NEWEST - 900 * DAY} for n in range(1, users + 1)],
            "orders": orders, "order_items": items, "products": [{"id": 1, "category": "Jeans"}]}


@pytest.fixture
def check(cloud, tmp_path):
    """Load and build an export (or the last one) with other settings; run the sanity checks."""
    def run(tables=None, **settings):
        for name, rows in (tables or {}).items():
            schema = pa.schema([(column, source.ARROW_TYPES[kind])
                                for column, kind in source.NEEDED[name].items()])
            pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / f"{name}.parquet")
        loaded = config.load(target="local", env="dev", overrides={
            "app": "remtest", "source": str(tmp_path), **settings})
        own = dataclasses.replace(cloud, settings=loaded)
        warehouse.create_dataset(own)
        source_load.load(own)
        for file in ("01_prepare_bq", "02_build_features", "03_build_labels_churn",
                     "04_build_train"):
            warehouse.build(own, file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sanity.LabelWarning)
            return sanity.check(own).value
    return run


def settings_in(text):
    """The settings that a message names, as overrides: "a.b: 1" -> {"a": {"b": 1}}."""
    found = {}
    for block, key, value in re.findall(r"(\w+)\.(\w+): ([\d.]+\d|\d)", text):
        found.setdefault(block, {})[key] = yaml.safe_load(value)
    return found


def refused(check, *arguments, **settings):
    with pytest.raises(Needed) as caught:
        check(*arguments, **settings)
    return caught.value


def test_eleven_months_name_the_longest_history_that_passes(check):
    error = refused(check, make(days=335, per_day=15, users=3000))
    assert "days_of_label_history = 2" in error.cause
    named = settings_in(error.need)
    assert list(named) == ["snapshots"] and list(named["snapshots"]) == ["history_days"]
    days = named["snapshots"]["history_days"]
    assert 126 <= days < 275
    assert set(check(snapshots={"history_days": days})["status"]) <= {"pass", "warn"}
    refused(check, snapshots={"history_days": days + 7})
    assert error.command.startswith("edit config.yaml, then ./run_all.sh ")
    assert error.command.endswith(" --from 02")


def test_a_small_sample_names_a_larger_one(check):
    sample = {"sample_percent": 10, "history_days": 126}
    error = refused(check, make(days=335, per_day=15, users=3000), snapshots=sample,
                    checks={"min_customers": 200})
    assert error.cause.startswith(
        "sanity checks failed: too few customers: customers_per_label_date = ")
    named = settings_in(error.need)["snapshots"]
    assert 20 < named["sample_percent"] < 60
    check(snapshots=sample | named, checks={"min_customers": 200})


def test_too_few_customers_at_older_dates_are_named_as_such_and_no_setting_helps(check):
    tables = make(days=600, per_day=2, users=1000)
    tables["orders"] = [o for n, o in enumerate(tables["orders"])
                        if o["created_at"] > NEWEST - 170 * DAY or n % 5 == 0]
    error = refused(check, tables, checks={"max_unusable_rate": 1.0})
    assert "too few customers: customers_per_label_date = " in error.cause
    assert ", allowed 50 or more" in error.cause
    assert re.match("a larger export: no setting in config.yaml helps. Three splits need 19 label "
                    "dates in a row up to the newest, each with at least 50 customers and both "
                    r"labels; there are \d+;", error.need)


def test_rates_of_one_label_only_are_one_sentence(check):
    error = refused(check, make(days=600, per_day=1, users=4), checks={"min_customers": 1})
    assert error.cause.count("positive_rate_at_") <= 1
    assert "more than 0 and less than 1: both labels must occur" in error.cause


def test_a_null_rate_names_the_limit_that_would_accept_it(check):
    snapshots, any_rows = {"history_days": 126}, {"max_unusable_rate": 1.0}
    error = refused(check, make(days=335, per_day=15, users=3000, with_items=0.8),
                    snapshots=snapshots, checks=any_rows)
    assert "null_rate_avg_order_value_90d = 0.1" in error.cause
    named = settings_in(error.need)
    assert list(named) == ["checks"] and list(named["checks"]) == ["max_null_rate"]
    assert 0.1 < named["checks"]["max_null_rate"] < 0.25
    check(snapshots=snapshots, checks=any_rows | named["checks"])


def test_a_feature_without_a_value_is_named_whatever_is_allowed(check):
    old = NEWEST - 330 * DAY
    error = refused(check, make(days=335, per_day=15, users=3000, keep_items=lambda at: at < old),
                    snapshots={"history_days": 126},
                    checks={"max_null_rate": 1.0, "max_unusable_rate": 1.0})
    assert ("null_rate_avg_order_value_90d = 1, allowed less than 1: the feature is NULL in every "
            "row") in error.cause
    assert error.need.startswith("values in the source columns that avg_order_value_90d, ")
    assert "no setting in config.yaml helps" in error.need


def test_a_label_outside_the_band_names_a_band_that_holds_it(check, cloud):
    tables, snapshots = make(days=335, per_day=30, users=1000), {"history_days": 126}
    check(tables, snapshots=snapshots)
    own = dataclasses.replace(cloud, settings=config.load(target="local", env="dev", overrides={
        "app": "remtest", "snapshots": snapshots}))
    with pytest.warns(sanity.LabelWarning) as caught:
        sanity.check(own)
    band = re.search(r"(\[.*?\]) in config.yaml", str(caught[0].message))[1]
    own = dataclasses.replace(cloud, settings=config.load(target="local", env="dev", overrides={
        "app": "remtest", "snapshots": snapshots,
        "label": {"positive_rate_band": yaml.safe_load(band)}}))
    assert set(sanity.check(own).value["status"]) == {"pass"}
