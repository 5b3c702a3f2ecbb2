"""Small look-ups for the notebooks: which customer to show, and what is known about them."""

import math
from datetime import date, datetime, timedelta

import pandas as pd

from lib import warehouse
from lib.cloud import Cloud
from lib.config import ENTITY, Settings
from lib.warehouse import query_file

SHOWN = 20_000  # customers behind a distribution: a picture shows no difference to all of them


def label_dates(settings: Settings, last_date: date) -> list[date]:
    """The label dates of sql/03, oldest first, given the day of the newest order."""
    newest = last_date - timedelta(days=settings.label.horizon_days)
    step, history = settings.snapshots.step_days, settings.snapshots.history_days
    return [newest - timedelta(days=n) for n in range(0, history + 1, step)][::-1]


def customer_rows(cloud: Cloud, key: str, customer_id: str) -> pd.DataFrame:
    """All rows of one customer in one of our tables."""
    sql = f"select * from `{cloud.settings.table(key)}` where customer_id = @customer_id"
    return warehouse.query(cloud, sql, customer_id=customer_id)


def newest_snapshot(cloud: Cloud) -> datetime:
    """The newest feature_timestamp."""
    sql = f"select max(feature_timestamp) as t from `{cloud.settings.table('features')}`"
    return warehouse.query(cloud, sql)["t"][0].to_pydatetime()


def newest_label(cloud: Cloud) -> datetime | None:
    """The newest label_timestamp; None before the labels are built."""
    if warehouse.find_table(cloud, "labels") is None:
        return None
    sql = f"select max(label_timestamp) as t from `{cloud.settings.table('labels')}`"
    return warehouse.query(cloud, sql)["t"][0].to_pydatetime()


def rows_since(cloud: Cloud, first: datetime) -> int:
    """The rows of features_customer from a snapshot on."""
    table = cloud.settings.table("features")
    sql = f"select count(*) as n from `{table}` where feature_timestamp >= @first"
    return int(warehouse.query(cloud, sql, first=first)["n"][0])


def newest_features(cloud: Cloud, most: int = SHOWN) -> pd.DataFrame:
    """The newest snapshot, by customer_id: of at most so many customers, chosen by hash."""
    found = query_file(cloud, "lookups/newest_features", large=True,
                       feature_timestamp=newest_snapshot(cloud), most=most)
    return found.sort_values(ENTITY, ignore_index=True)


def active_features(cloud: Cloud) -> pd.DataFrame:
    """The rows in the newest snapshot of the customers with an order in the last
    label.active_days days, by customer_id: those of whom `base_rate` is the rate. Of at most so
    many customers, chosen by hash."""
    found = query_file(cloud, "lookups/active_features", large=True,
                       feature_timestamp=newest_snapshot(cloud), most=SHOWN)
    return found.sort_values(ENTITY, ignore_index=True)


def one_in(cloud: Cloud, most: int) -> int:
    """Of one in how many customers to read the label rows, so that there are about `most`."""
    return max(1, math.ceil(warehouse.find_table(cloud, "train").num_rows / most))


def label_rows(cloud: Cloud, key: str, part: int) -> pd.DataFrame:
    """All rows of one in `part` customers in a table of label rows (train, train_naive): the same
    customers each time, by hash."""
    if part == 1:
        return warehouse.read_table(cloud, key)
    return query_file(cloud, "lookups/label_rows", large=True, table=cloud.settings.table(key),
                      one_in=part)


def label_times(cloud: Cloud, key: str) -> pd.Series:
    """label_rows, and newest_features (a time) and from_after, the rows whose features are from
    after the label's time, of a table of label rows."""
    found = query_file(cloud, "lookups/label_times", table=cloud.settings.table(key))
    return found.iloc[0]


def served_customers(cloud: Cloud, count: int) -> list[str]:
    """`count` customers of the newest snapshot with an order in the last label.active_days days,
    the population that the model was trained on. The same ones each time."""
    found = query_file(cloud, "lookups/served_customers",
                       feature_timestamp=newest_snapshot(cloud), count=count)
    return sorted(found[ENTITY], key=int)


def newest_rows(cloud: Cloud, customers: list[str]) -> pd.DataFrame:
    """The newest row of each of these customers, by customer_id: what a training would see now."""
    found = query_file(cloud, "lookups/newest_rows", customers=customers)
    return found.set_index(ENTITY).loc[customers]


def newest_row(cloud: Cloud, customer_id: str) -> pd.Series:
    """The newest row of one customer."""
    return newest_rows(cloud, [customer_id]).iloc[0]


def silent_customer(cloud: Cloud) -> str:
    """A customer with two orders, none in the 90 days before the newest snapshot, so that the
    90-day features are empty; in small data the next best. The same one each time."""
    found = query_file(cloud, "lookups/silent_customer", feature_timestamp=newest_snapshot(cloud))
    return found[ENTITY][0]


def base_rate(cloud: Cloud) -> float:
    """The share of label 1 in all label rows: the prediction that uses no feature."""
    settings = cloud.settings
    sql = f"select avg({settings.label.column}) as rate from `{settings.table('labels')}`"
    return float(warehouse.query(cloud, sql)["rate"][0])


def instance(cloud: Cloud, row: pd.Series) -> dict[str, float | None]:
    """The features of a row by name, None for NULL: an instance for the endpoint."""
    values = {name: row[name] for name in cloud.settings.feature_names}
    return {k: None if pd.isna(v) else float(v) for k, v in values.items()}


def orders_per_day(cloud: Cloud) -> pd.DataFrame:
    """order_date and orders, a count; a row per day with an order, oldest first."""
    return query_file(cloud, "lookups/orders_per_day")


def labels_per_snapshot(cloud: Cloud) -> pd.DataFrame:
    """label_timestamp; rows and churned, counts of labels; positive_rate. A row per label date,
    oldest first."""
    found = query_file(cloud, "lookups/labels_per_snapshot")
    found = found.rename(columns={"row_count": "rows"})
    return found.assign(positive_rate=found["churned"] / found["rows"])


def example_label(cloud: Cloud) -> pd.Series:
    """customer_id, label_timestamp and feature_timestamp of a row of train_dataset for the picture
    of the join: of a customer with two recent orders, and one to come. The same one each time."""
    return query_file(cloud, "lookups/example_label").iloc[0]
