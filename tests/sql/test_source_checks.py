"""The source as a whole: stray dates, references, impossible values, through a real load."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lib import config, source, source_load, warehouse
from lib.errors import Needed

DAY = timedelta(days=1)
NEWEST = datetime(2026, 3, 10, 12, tzinfo=UTC)


def make(days=400, per_day=3):
    """An export with `per_day` orders a day up to NEWEST, one item each, as lists of rows."""
    count = days * per_day
    times = [NEWEST - DAY * (n // per_day) for n in range(count)]
    return {
        "users": [{"id": n, "created_at": NEWEST - 900 * DAY} for n in range(1, 101)],
        "orders": [{"order_id": n, "user_id": n % 100 + 1, "created_at": at}
                   for n, at in enumerate(times, 1)],
        "order_items": [{"id": n, "order_id": n, "product_id": n % 10 + 1, "sale_price": 5.0,
                         "returned_at": at + 3 * DAY if n % 10 == 0 else None}
                        for n, at in enumerate(times, 1)],
        "products": [{"id": n, "category": "Jeans"} for n in range(1, 11)],
    }


@pytest.fixture
def load(cloud, tmp_path):
    """Write an export and load it."""
    def run(tables):
        for name, rows in tables.items():
            schema = pa.schema([(column, source.ARROW_TYPES[kind])
                                for column, kind in source.NEEDED[name].items()])
            pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / f"{name}.parquet")
        settings = config.load(target="local", env="dev", overrides={
            "app": "srctest", "source": str(tmp_path)})
        own = dataclasses.replace(cloud, settings=settings)
        own.bigquery.delete_dataset(
            settings.source_dataset, delete_contents=True, not_found_ok=True)
        return source_load.load(own)
    return run


def test_the_built_in_data_has_nothing_to_say(cloud, capsys):
    assert source_load.load(cloud).figures == {"as": "read where it is"}
    assert capsys.readouterr().out == ""


def test_good_data_pass(load, capsys):
    assert set(load(make()).figures) == {f"{name} rows" for name in source.NEEDED}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("strays", [
    {9001: NEWEST + 40 * DAY},
    {9001: datetime(2029, 5, 1, tzinfo=UTC)},
    {9001: NEWEST + 40 * DAY, 9002: NEWEST + 12 * DAY, 9003: datetime(2031, 1, 1, tzinfo=UTC)},
    {9000 + n: NEWEST + 30 * DAY for n in range(30)},  # a batch with the month wrong
], ids=["40 days ahead", "in 2029", "three", "a batch"])
def test_stray_orders_end_the_load_and_are_named(load, strays):
    tables = make()
    tables["orders"] += [{"order_id": n, "user_id": 7, "created_at": at}
                         for n, at in strays.items()]
    with pytest.raises(Needed) as caught:
        load(tables)
    message = str(caught.value)
    assert f"Orders after 2026-03-10: {len(strays)}, namely order" in message
    newest = max(strays, key=lambda n: (strays[n], -n))
    assert f"order {newest} of user 7 at {strays[newest]:%Y-%m-%d}" in message
    tables["orders"] = tables["orders"][:-len(strays)]  # as the message says
    load(tables)


def test_a_last_week_of_three_days_is_no_stray_order(load):
    tables = make()
    tables["orders"] = [o for o in tables["orders"]
                        if not NEWEST - 6.5 * DAY < o["created_at"] < NEWEST - 2.5 * DAY]
    load(tables)


def few(tables, name, count, **values):
    """Change the first `count` rows of a table."""
    tables[name] = [row | values if n < count else row for n, row in enumerate(tables[name])]
    return tables


PROBLEMS = [
    ("orders", {"user_id": 999}, "orders_of_unknown_users", "have a user_id that is not in users"),
    ("orders", {"created_at": NEWEST - 901 * DAY}, "orders_before_sign_up",
     "are older than their user's sign-up"),
    ("order_items", {"order_id": 99999}, "items_of_unknown_orders",
     "have an order_id that is not in orders"),
    ("order_items", {"product_id": 99999}, "items_of_unknown_products",
     "have a product_id that is not in products"),
    ("order_items", {"sale_price": -1.0}, "items_with_negative_price",
     "have a sale_price below 0"),
    ("order_items", {"sale_price": None}, "items_without_price", "have no sale_price"),
    ("order_items", {"returned_at": datetime(1970, 1, 1, tzinfo=UTC)}, "items_returned_too_early",
     "have a returned_at before their order"),
    ("order_items", {"order_id": 1200}, "orders_without_items", "have no row in order_items"),
    ("orders", {"created_at": datetime(1970, 1, 1, tzinfo=UTC)}, "orders_before_sign_up",
     "are older than their user's sign-up"),
]


@pytest.mark.parametrize(("table", "values", "name", "text"), PROBLEMS,
                         ids=[f"{name} {n}" for n, (_, _, name, _) in enumerate(PROBLEMS)])
def test_unusable_rows_are_counted_and_too_many_end_the_load(
        load, capsys, table, values, name, text):
    assert load(few(make(), table, 60, **values)).figures[name] == 60  # 5 of 100: not above it
    counted = "orders" if name == "orders_without_items" else table
    assert f"60 of 1,200 {counted} (5.0%) {text}, for instance 1: " in capsys.readouterr().out
    with pytest.raises(Needed, match=rf"61 of 1,200 {counted} \(5.1%\) {text}.*at most 5%"):
        load(few(make(), table, 61, **values))


def test_too_short_a_time_ends_the_load_with_the_days_that_are_needed(load):
    with pytest.raises(Needed, match="the orders span 185 days.*orders over 186 days"):
        load(make(days=186))
    load(make(days=187))


def test_stray_orders_without_a_usual_time_before_them(load):
    tables = make(days=21)
    tables["orders"][-1]["created_at"] -= 400 * DAY
    with pytest.raises(Needed, match="6 of the last 9 weeks up to 2026-03-10 have less than 10%"):
        load(tables)


def test_300_customers_end_the_load_with_the_number_that_is_needed(load):
    tables = make()
    tables["users"] = [{"id": n, "created_at": NEWEST - 900 * DAY} for n in range(1, 301)]
    for order in tables["orders"]:  # a year of orders of 40 of them, as of a small shop
        order["user_id"] = order["order_id"] % 40 + 1
    with pytest.raises(Needed, match=r"40 customers have an order in the 90 days before 2026-01-09"
                       r".*each date needs 50\. Needed: .* about 375 users instead of 300"):
        load(tables)


def test_two_months_end_the_load_with_the_days_that_are_needed(load):
    with pytest.raises(Needed, match="the orders span 59 days.*orders over 186 days"):
        load(make(days=60))


@pytest.mark.parametrize(("table", "keep", "text"), [
    ("users", 50, r"orders \(50.0%\) have a user_id that is not in users"),
    ("orders", 600, r"order_items \(50.0%\) have an order_id that is not in orders"),
    ("order_items", 600, r"orders \(50.0%\) have no row in order_items"),
    ("products", 5, r"order_items \(50.0%\) have a product_id that is not in products"),
])
def test_a_part_of_the_rows_ends_the_load(load, table, keep, text):
    tables = make()
    tables[table] = tables[table][:keep]
    with pytest.raises(Needed, match=f"{text}.*at most 5%"):
        load(tables)


@pytest.mark.parametrize(("table", "column", "text"), [
    ("order_items", "sale_price", "1,200 of 1,200 order_items .* have no sale_price"),
    ("products", "category", "10 of 10 products .* have no category"),
])
def test_a_column_that_is_empty_ends_the_load(load, table, column, text):
    tables = make()
    tables[table] = [row | {column: None} for row in tables[table]]
    with pytest.raises(Needed, match=text):
        load(tables)


def test_a_shop_without_returns_is_said(load, capsys):
    tables = make()
    tables["order_items"] = [row | {"returned_at": None} for row in tables["order_items"]]
    assert load(tables).figures["returned_items"] == 0
    assert "no item was ever returned" in capsys.readouterr().out


def test_a_stray_order_that_is_left_out_moves_no_date(load):
    tables = make()
    tables["orders"].append({"order_id": 9001, "user_id": 999,  # of nobody, in the year 9999
                             "created_at": datetime(9999, 12, 31, tzinfo=UTC)})
    tables["orders"].append({"order_id": 9002, "user_id": 7,  # before the sign-up
                             "created_at": datetime(1970, 1, 1, tzinfo=UTC)})
    figures = load(tables).figures
    assert (figures["orders_of_unknown_users"], figures["orders_before_sign_up"]) == (1, 1)
    short = make(days=150)
    short["orders"].append(tables["orders"][-1])
    with pytest.raises(Needed, match="the orders span 149 days"):
        load(short)


def test_keys_that_repeat_in_a_dataset_end_the_load(load, cloud):
    load(make())
    name = "local-demo.srctest_dev_source"
    cloud.bigquery.query(f"insert into `{name}.products` select * from `{name}.products`").result()
    settings = config.load(target="local", env="dev", overrides={"app": "srctest", "source": name})
    with pytest.raises(Needed, match="10 rows of products repeat the id of another"):
        source_load.load(dataclasses.replace(cloud, settings=settings))


def test_files_that_change_while_they_are_read_end_the_load(load, monkeypatch, tmp_path):
    read = source.read_export

    def read_and_change(folder):
        tables = read(folder)
        path = tmp_path / "products.parquet"
        pq.write_table(pq.read_table(path).slice(1), path)
        return tables

    monkeypatch.setattr(source, "read_export", read_and_change)
    with pytest.raises(Needed, match="changed while they were read"):
        load(make())


def test_a_folder_is_loaded_again_if_a_table_of_it_is_gone(load, cloud, tmp_path):
    """In dev BigQuery deletes tables after retention.table_expiration_days, not the dataset."""
    load(make())
    settings = config.load(target="local", env="dev", overrides={
        "app": "srctest", "source": str(tmp_path)})
    own = dataclasses.replace(cloud, settings=settings)
    assert source_load.load(own).status == "reused"
    cloud.bigquery.delete_table(f"{settings.source_dataset}.orders")
    assert source_load.load(own).status == "created"


def test_a_load_that_was_interrupted_is_repeated(load, cloud, tmp_path, monkeypatch):
    """Also for the files that were loaded before it: some tables are of the others now."""
    settings = config.load(target="local", env="dev", overrides={
        "app": "srctest", "source": str(tmp_path)})
    own = dataclasses.replace(cloud, settings=settings)
    load(make())
    path, real = tmp_path / "users.parquet", warehouse.load_table
    before = path.read_bytes()
    pq.write_table(pq.read_table(path).slice(1), path)

    def killed(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(warehouse, "load_table", killed)
        source_load.load(own)
    path.write_bytes(before)
    assert source_load.load(own).status == "created"
