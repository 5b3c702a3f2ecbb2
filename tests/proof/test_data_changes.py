"""The data change under the run's feet: each change is planted, and a check names it."""

import dataclasses
import warnings

import pytest

from lib import config, lookups, warehouse
from lib.errors import Needed
from lib.proof import sanity
from tests.conftest import SMALL

RENDER = warehouse.render
BUILT = ("01_prepare_bq", "02_build_features", "03_build_labels_churn", "04_build_train")
OWN = {**SMALL, "app": "changes", "checks": {"min_join_coverage": 0.9},
       "snapshots": {"history_days": 126}}


@pytest.fixture(scope="module")
def own(cloud):
    """The tables of the app "changes", built."""
    settings = config.load(target="local", env="dev", overrides=OWN)
    made = dataclasses.replace(cloud, settings=settings)
    warehouse.create_dataset(made)
    build(made)
    return made


def build(own):
    return [warehouse.build(own, file).status for file in BUILT]


def check(own):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sanity.LabelWarning)
        return sanity.check(own)


def test_unchanged_data_pass(own):
    assert set(check(own).value["status"]) <= {"pass", "warn"}


DOUBLE = "insert into {0} select * from {0}"
NEWEST = "(select max(label_timestamp) from {labels})"
# Changes that are planted together, since the checks that name them do not depend on each other:
# the statement, then the check.
CHANGES = {
    "raw tables emptied": {
        "delete from {raw_users} where true": "users = 0",
        "delete from {raw_orders} where true": "orders = 0",
        "delete from {raw_order_items} where true": "order_items_with_price = 0",
        "delete from {raw_products} where true": "products_with_category = 0"},
    "raw tables doubled": {
        DOUBLE.format("{raw_users}"): "users_doubled = ",
        DOUBLE.format("{raw_orders}"): "orders_doubled = ",
        DOUBLE.format("{raw_order_items}"): "order_items_doubled = ",
        DOUBLE.format("{raw_products}"): "products_doubled = "},
    "raw values": {
        "update {raw_order_items} set sale_price = null where true": "order_items_with_price = 0",
        "update {raw_products} set category = null where true": "products_with_category = 0",
        "update {raw_users} set signed_up_at = timestamp_add(signed_up_at, interval 400 day) "
        "where true": "orders_without_their_user = ",
        "update {raw_orders} set ordered_at = timestamp_sub(ordered_at, interval 1 second) "
        "where true": "items_without_their_order = "},
    "features emptied": {"delete from {features} where true": "feature_rows = 0"},
    "NULLs, labels doubled": {
        "update {features} set tenure_days = null where true": "null_rate_tenure_days = 1",
        "update {train} set return_rate_90d = null where true": "null_rate_return_rate_90d = 1",
        "delete from {features} where feature_timestamp = timestamp_sub("
        "(select max(feature_timestamp) from {features}), interval 14 day)":
            "snapshots_missing = 1",
        DOUBLE.format("{labels}"): "label_keys_doubled = "},
    "train doubled and of one class": {
        "delete from {features} where feature_timestamp = "
        "(select max(feature_timestamp) from {features})":
            "days_from_last_snapshot_to_last_order = 7",
        DOUBLE.format("{train}"): "label_rows_added_by_join = ",
        "update {labels} set label_churn_60d = 1 where label_timestamp < timestamp_sub("
        + NEWEST + ", interval 70 day)": "both labels must occur"},
    "train in part, test of one class": {
        DOUBLE.format("{features}"): "feature_keys_doubled = ",
        "delete from {train} where orders_90d > 1": "label_rows_lost_by_join = ",
        "update {labels} set label_churn_60d = 0 where label_timestamp = " + NEWEST:
            "both labels must occur"},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_a_change_after_the_build_is_named_and_the_next_run_repairs_it(own, changes, trials):
    names = {key: f"`{own.settings.table(key)}`" for key in own.settings.tables.model_dump()}
    for statement in changes:
        trials()
        own.bigquery.query(statement.format(**names)).result()
    with pytest.raises(Needed) as caught:
        check(own)
    for named in changes.values():
        assert named in caught.value.cause
    assert "created" in build(own)
    assert set(check(own).value["status"]) <= {"pass", "warn"}


@pytest.mark.parametrize("number", [1, 2], ids=["orders", "items"])
def test_a_source_that_is_replaced_between_two_reads_is_copied_again(own, monkeypatch, number):
    """One statement of sql/01 reads another theLook than the ones before it."""
    statements = RENDER("01_prepare_bq", own.settings)
    time = "orders.created_at as ordered_at"
    assert time in statements[number]
    statements[number] = statements[number].replace(
        time, f"timestamp_sub(orders.created_at, interval 300 day) {time[-13:]}")
    with monkeypatch.context() as patch:
        patch.setattr(warehouse, "render", lambda file, settings, **names: (
            statements if file == "01_prepare_bq" else RENDER(file, settings, **names)))
        with pytest.raises(Needed, match="the source changed while it was copied"):
            warehouse.build(own, "01_prepare_bq")
    assert warehouse.build(own, "01_prepare_bq").status == "created"


@pytest.mark.parametrize(("left", "silent"), [("days_since_last_order >= 201", True),
                                              ("days_since_last_order < 100", False)])
def test_small_data_show_the_next_best_silent_customer(own, left, silent):
    features = f"`{own.settings.table('features')}`"
    own.bigquery.query(f"delete from {features} where not ({left})").result()
    row = lookups.newest_row(own, lookups.silent_customer(own))
    assert (row["days_since_last_order"] >= 100) == silent
    assert len(lookups.newest_features(own, most=35)) == 35
    warehouse.forget(own, "02_build_features")
    build(own)
