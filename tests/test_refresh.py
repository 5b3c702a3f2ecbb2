"""A refresh equals a rebuild to the bit, wherever it was killed; what it cannot do is refused."""

import copy
import dataclasses
import itertools
import json
import re
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from google.cloud import bigquery

from lib import config, lookups, refresh, source_load, warehouse
from lib.components.data_load.src import refresh as program
from lib.errors import Needed, existing
from lib.operate import schedule, teardown
from tests.conftest import SMALL
from tests.sql import hard_cases
from tests.sql.hard_cases import DAY, LAST, MIDNIGHT

KEYS = {
    "raw_users": ["customer_id"], "raw_orders": ["order_id"], "raw_order_items": ["order_item_id"],
    "raw_products": ["product_id"], "features": ["feature_timestamp", "customer_id"]}
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def source():
    return hard_cases.make_source()


def opened(cloud, source, folder, app):
    """The tables of a small shop, built a week ago."""
    settings = hard_cases.short(config.load(target="local", env="dev", overrides={
        **hard_cases.OVERRIDES, "app": app, "source": str(folder)}))
    there = dataclasses.replace(cloud, settings=settings)
    there.bigquery.delete_dataset(settings.dataset, delete_contents=True, not_found_ok=True)
    warehouse.create_dataset(there)
    load(there, source)
    warehouse.build(there, "01_prepare_bq")
    warehouse.build(there, "02_build_features")
    return there


@pytest.fixture
def shop(cloud, source, tmp_path):
    """A shop that its test may change."""
    return opened(cloud, source, tmp_path, "refresh")


@pytest.fixture(scope="module")
def closed(cloud, source, tmp_path_factory):
    """A shop whose tables every test leaves as they are; its source may be any."""
    return opened(cloud, source, tmp_path_factory.mktemp("closed"), "closed")


def load(shop, source):
    hard_cases.write(source, shop.settings.source_folder)
    source_load.load(shop)


def order(source, user, at, returned=None, price=12.5):
    """One more order of one item."""
    number = max(o["order_id"] for o in source["orders"]) + 1
    source["orders"].append({"order_id": number, "user_id": user, "created_at": at})
    source["order_items"].append({
        "id": max(i["id"] for i in source["order_items"]) + 1, "order_id": number,
        "user_id": user, "product_id": 1 + user % 12, "sale_price": price,
        "returned_at": returned})


def grown(source, days=7):
    """The same shop so many days later: new orders, a new customer, and what came back."""
    source = copy.deepcopy(source)
    source["users"].append({"id": 81, "created_at": LAST + DAY})
    for user in (1, 2, 3, 4, 5, 66, 76, 81):
        order(source, user, LAST + DAY + user * HOUR / 8)
    order(source, 6, LAST + days * DAY - HOUR, returned=LAST + days * DAY)
    kept = [i for i in source["order_items"] if i["returned_at"] is None]
    for item in kept[-4:]:
        item["returned_at"] = LAST + 2 * DAY
    return source


def late(source):
    """What the shop forgot to record: two orders of 9 and of 20 days ago, one with a return."""
    source = grown(source)
    order(source, 7, MIDNIGHT - 9 * DAY)
    order(source, 66, MIDNIGHT - 20 * DAY, returned=MIDNIGHT - 15 * DAY)
    return source


def corrected(source):
    """An order of 12 days ago was none, and another one had another price."""
    source = grown(source)
    order(source, 8, MIDNIGHT - 12 * DAY)
    recent = [o for o in source["orders"] if MIDNIGHT - 50 * DAY < o["created_at"] < MIDNIGHT]
    gone, dearer = recent[0]["order_id"], recent[1]["order_id"]
    source["orders"] = [o for o in source["orders"] if o["order_id"] != gone]
    source["order_items"] = [i for i in source["order_items"] if i["order_id"] != gone]
    for item in source["order_items"]:
        item["sale_price"] += 0.1 * (item["order_id"] == dearer)
    return source


def run(shop, source):
    """Refresh from this source; the figures of the snapshots."""
    load(shop, source)
    return refresh.snapshots(shop).figures


def tables(shop):
    return {key: warehouse.read_table(shop, key).sort_values(by, ignore_index=True)
            for key, by in KEYS.items()}


@pytest.fixture(scope="module")
def rebuilt(source):
    """The tables that a shop has when they are made anew from a source, after its first use kept
    by the function that made the source."""
    kept = {}

    def make(shop, change):
        if change not in kept:
            load(shop, change(source))
            refresh.rebuild(shop)
            kept[change] = tables(shop)
        return kept[change]

    return make


def assert_equal(found, wanted):
    for key in KEYS:
        assert len(wanted[key]) > 10
        pd.testing.assert_frame_equal(found[key], wanted[key], check_exact=True, obj=key)


@pytest.mark.parametrize("change, added, again", [(grown, 1, 0), (late, 1, 3), (corrected, 1, 8)])
def test_a_refresh_equals_a_rebuild_and_a_second_one_does_nothing(
        shop, source, rebuilt, change, added, again):
    before = tables(shop)["features"]
    figures = run(shop, change(source))
    assert figures["snapshots added"] == added
    assert figures["computed again"] == again or change is corrected
    found = tables(shop)
    newest = found["features"]["feature_timestamp"]
    assert newest.max() == pd.Timestamp(MIDNIGHT + 7 * DAY)
    assert newest.min() == before["feature_timestamp"].min() + 7 * DAY
    assert figures["rows"] == sum(newest > newest.max() - (added + figures["computed again"])
                                  * 7 * DAY)
    assert warehouse.build(shop, "01_prepare_bq").status == "reused"
    assert warehouse.build(shop, "02_build_features").status == "reused"
    builds = {key: warehouse.built_at(shop, key) for key in KEYS}
    second = refresh.snapshots(shop)
    assert (second.status, second.figures["snapshots added"]) == ("reused", 0)
    assert second.figures["next snapshot"] == "2026-03-24"
    assert builds == {key: warehouse.built_at(shop, key) for key in KEYS}
    assert_equal(found, rebuilt(shop, change))


class Killed(BaseException):
    """The process ended here."""


def kill(patch, owner, step, last=1):
    """Let a refresh be killed after so many calls of this method: it does not clean up."""
    real, calls = getattr(owner, step), itertools.count(1)

    def killed(*arguments, **named):
        result = real(*arguments, **named)
        if next(calls) == last:
            if step == "copy_table":
                result.result()
            patch.setattr(bigquery.Client, "delete_table", lambda *_, **__: None)
            raise Killed
        return result

    patch.setattr(owner, step, killed)


# After which calls it is killed: the source is read; the first snapshot is noted; one copied table
# is replaced; all are; the features are computed, and not labelled.
STEPS = [(program.Refresh, "read_source", 1), (program.Refresh, "label", 1),
         (bigquery.Client, "copy_table", 1), (program.Refresh, "replace_copies", 1),
         (program.Refresh, "query", 8)]


def test_killed_at_any_step_the_next_refresh_completes_it(shop, source, rebuilt, monkeypatch):
    """Five weeks, each with late orders, and in each the refresh is killed after another step. The
    snapshots of all of them are in the history that the rebuild makes at the end."""
    source = copy.deepcopy(source)
    arrived = [table["arrived"] for table in refresh.plan(shop.settings)["tables"].values()]
    for week, (owner, step, last) in enumerate(STEPS, 1):
        for user in range(1, 9):
            order(source, user, LAST + (7 * week - 4) * DAY + user * HOUR / 8)
        order(source, 9, LAST + 7 * week * DAY - HOUR)
        order(source, 10, MIDNIGHT + (7 * week - 30) * DAY, returned=LAST + 7 * (week - 2) * DAY)
        load(shop, source)
        with monkeypatch.context() as patch:
            kill(patch, owner, step, last)
            with pytest.raises(Killed):
                refresh.snapshots(shop)
        assert all(existing(shop.bigquery.get_table, name) for name in arrived)
        figures = refresh.snapshots(shop).figures
        assert (figures["snapshots added"], figures["computed again"]) in [(1, 4), (0, 5)], step
        assert lookups.newest_snapshot(shop) == MIDNIGHT + 7 * week * DAY
        assert not any(existing(shop.bigquery.get_table, name) for name in arrived)
    assert_equal(tables(shop), rebuilt(shop, lambda _: source))


def test_a_run_after_a_killed_refresh_builds_everything_again(shop, source, rebuilt, monkeypatch):
    with monkeypatch.context() as patch:
        kill(patch, program.Refresh, "replace_copies")
        with pytest.raises(Killed):
            run(shop, late(source))
    assert warehouse.build(shop, "02_build_features").status == "created"
    found = tables(shop)
    assert refresh.snapshots(shop).status == "reused"
    assert_equal(found, rebuilt(shop, late))


def test_snapshots_keep_their_weekday_when_the_orders_end_on_another(shop, source, rebuilt):
    assert run(shop, grown(source, days=3))["snapshots added"] == 0
    assert lookups.newest_snapshot(shop) == MIDNIGHT
    assert run(shop, grown(source, days=17))["snapshots added"] == 2
    assert lookups.newest_snapshot(shop) == MIDNIGHT + 14 * DAY
    found = tables(shop)["features"]
    # As a run would have built them on that day.
    wanted = rebuilt(shop, lambda source: grown(source, days=14))["features"]
    early = MIDNIGHT + 13 * DAY  # the one order of these sources that differs is later
    assert len(wanted) == len(found)
    pd.testing.assert_frame_equal(
        found[found["feature_timestamp"] < early], wanted[wanted["feature_timestamp"] < early],
        check_exact=True)


def test_what_became_due_for_training_is_reported(closed):
    assert refresh.labels(closed, MIDNIGHT).figures["newest label date"] == "none"
    warehouse.build(closed, "03_build_labels_churn")
    assert refresh.labels(closed, MIDNIGHT).value is False
    found = refresh.labels(closed, MIDNIGHT + 7 * DAY)
    assert found.value is True
    assert found.figures == {"newest label date": "2026-01-09", "complete up to": "2026-01-16"}


def renumbered(source):
    """The public theLook of the next day: other orders, under the same numbers."""
    source = copy.deepcopy(source)
    for row in source["orders"]:
        row["user_id"] = 1 + (row["user_id"] + 20) % 60
    return source


def ancient(source):
    source = grown(source)
    order(source, 1, MIDNIGHT - 70 * DAY)
    return source


def cut(source):
    source = copy.deepcopy(source)
    kept = {o["order_id"] for o in source["orders"] if o["created_at"] < MIDNIGHT - 2 * DAY}
    for table in ("orders", "order_items"):
        source[table] = [row for row in source[table] if row["order_id"] in kept]
    return source


@pytest.mark.parametrize("change, cause", [
    (renumbered, "it was replaced, and did not grow"),
    (ancient, "the source changed from 2025-12-30 on"),
    (cut, "the source lost its newest orders"),
], ids=["another source", "long ago", "lost orders"])
def test_what_needs_a_rebuild_is_refused_and_changes_nothing(closed, source, change, cause):
    before = tables(closed)
    with pytest.raises(Needed, match=cause) as refused:
        run(closed, change(source))
    assert "lib.refresh" in refused.value.command and "--rebuild" in refused.value.command
    assert_equal(tables(closed), before)


def test_features_of_another_definition_or_none_are_refused(closed):
    def other(**changes):
        return dataclasses.replace(closed, settings=closed.settings.model_copy(update=changes))

    snapshots = closed.settings.snapshots.model_copy(update={"history_days": 35})
    with pytest.raises(Needed, match="must all be of one definition"):
        refresh.snapshots(other(snapshots=snapshots))
    names = closed.settings.tables.model_copy(update={"features": "features_elsewhere"})
    with pytest.raises(Needed, match="not built yet"):
        refresh.snapshots(other(tables=names))


def test_another_time_of_arrival_is_a_change(closed, source):
    load(closed, source)
    name = closed.settings.table("raw_orders")
    for direction, changed in (("add", True), ("sub", False)):
        closed.bigquery.query(
            f"update `{name}` set known_at = timestamp_{direction}(known_at, interval 1 hour) "
            f"where order_id = (select max(order_id) from `{name}`)").result()
        facts = program.Refresh(closed.bigquery, refresh.plan(closed.settings)).read_source()
        assert (facts["changed_from"] is not None) == changed


# -- on a schedule --------------------------------------------------------------------------------


def scheduled(shop):
    """The shop, whose orders are in a BigQuery dataset."""
    settings = shop.settings.model_copy(update={"source": shop.settings.source_dataset})
    return dataclasses.replace(shop, settings=settings)


def step(shop):
    """What the pipeline does, by its program in this process."""
    return program.Refresh(shop.bigquery, refresh.plan(scheduled(shop).settings)).run()


def test_the_pipeline_equals_a_rebuild_does_nothing_twice_and_refuses(shop, source, rebuilt):
    load(shop, late(source))
    schedule.run(scheduled(shop))
    found = tables(shop)
    builds = {key: warehouse.built_at(shop, key) for key in KEYS}
    sent, settings = [], scheduled(shop).settings
    done = program.Refresh(
        shop.bigquery, refresh.plan(settings), lambda sql, times: sent.append(sql)).run()
    assert done["first"] > done["last"]  # nothing is due
    for name in ("users", "orders", "order_items", "products"):  # only to copy it
        reads = [sql for sql in sent if f"`{settings.source_dataset}.{name}`" in sql]
        assert reads and all(re.search("^create .*_arrived`$", sql, re.M) for sql in reads)
    assert builds == {key: warehouse.built_at(shop, key) for key in KEYS}
    assert warehouse.build(shop, "02_build_features").status == "reused"
    assert refresh.snapshots(shop).status == "reused"
    load(shop, renumbered(late(source)))
    with pytest.raises(Needed, match="it was replaced, and did not grow"):
        schedule.run(scheduled(shop))
    assert builds == {key: warehouse.built_at(shop, key) for key in KEYS}
    assert_equal(found, rebuilt(shop, late))


def test_the_pipeline_step_completes_what_a_killed_refresh_left(
        shop, source, rebuilt, monkeypatch):
    with monkeypatch.context() as patch:
        kill(patch, program.Refresh, "replace_copies")
        with pytest.raises(Killed):
            run(shop, late(source))
    step(shop)
    assert_equal(tables(shop), rebuilt(shop, late))


def test_a_step_that_ends_in_its_copies_leaves_none_of_them_to_be_reused(
        shop, source, rebuilt, monkeypatch):
    there = scheduled(shop)
    warehouse.build(there, "01_prepare_bq")
    load(shop, late(source))
    with monkeypatch.context() as patch:
        kill(patch, bigquery.Client, "copy_table")
        with pytest.raises(Killed):
            step(shop)
    assert warehouse.build(there, "01_prepare_bq").status == "created"
    step(shop)  # what changed before the copy is known from the label
    assert_equal(tables(shop), rebuilt(shop, late))


def test_the_pipeline_step_refuses_an_order_of_the_future(closed, source):
    ahead = grown(source)
    order(ahead, 9, datetime.now(UTC) + 30 * DAY)
    before = warehouse.built_at(closed, "features")
    with pytest.MonkeyPatch.context() as patch:  # a folder would be refused on loading
        patch.setattr(source_load.source_checks, "require", lambda *_, **__: {})
        load(closed, ahead)
    with pytest.raises(program.Refused, match="in the future"):
        step(closed)
    assert warehouse.built_at(closed, "features") == before


def test_a_schedule_is_made_anew_listed_paused_and_torn_down(cloud, capsys, monkeypatch):
    monkeypatch.setenv(config.SETTINGS_VARIABLE, json.dumps(SMALL))
    first = schedule.create(cloud)
    second = schedule.create(cloud)
    assert [found.name for found in schedule.find(cloud)] == [second.name] != [first.name]
    assert second.cron == cloud.settings.feature_view.refresh_cron
    arguments = ["--target", "local", "--env", "dev"]
    for action, state in (("pause", "paused"), ("resume", "active"), ("show", "active")):
        assert schedule.main([action, *arguments]) == 0
        assert capsys.readouterr().out == f"{second.name}: {second.cron}, {state}\n"
    listed = [found for found in teardown.find(cloud).ours if found.kind == "schedule"]
    assert [(found.name, found.note) for found in listed] == [
        (second.name, f"{second.cron}, active")]
    assert teardown.remove(cloud, teardown.Found(listed, [], [])) == {}
    assert schedule.find(cloud) == []
    assert schedule.main(["show", *arguments]) == 0
    assert "lib.operate.schedule --target local --env dev create" in capsys.readouterr().out


@pytest.mark.parametrize("action", [schedule.create, schedule.run])
def test_a_folder_cannot_be_refreshed_on_a_schedule(closed, action):
    with pytest.raises(Needed, match="a scheduled step cannot read"):
        action(closed)
    assert closed.storage.lookup_bucket(closed.settings.names.bucket) is None  # nothing was made
