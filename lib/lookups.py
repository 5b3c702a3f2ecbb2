"""Small look-ups for the notebooks: which customer to show, and what is known of them."""

from datetime import date, datetime, timedelta

import pandas as pd

from lib import warehouse
from lib.cloud import Cloud
from lib.config import Settings


def label_dates(settings: Settings, last_date: date) -> list[date]:
    """The label spine of sql/03, oldest first, given the day of the newest order."""
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


def newest_features(cloud: Cloud, one_in: int = 10) -> pd.DataFrame:
    """One in `one_in` customers' rows of the newest snapshot, in the order of customer_id."""
    sql = (f"select * from `{cloud.settings.table('features')}` where feature_timestamp = @t "
           f"and mod(farm_fingerprint(customer_id), {one_in}) = 0 order by customer_id")
    return warehouse.query(cloud, sql, t=newest_snapshot(cloud))


def served_customers(cloud: Cloud, count: int) -> list[str]:
    """`count` customers of the newest snapshot that ordered in the last 90 days: the
    population that the model was trained on. The same ones each time."""
    sql = (f"select customer_id from `{cloud.settings.table('features')}` where "
           f"feature_timestamp = @t and orders_90d > 0 "
           f"order by farm_fingerprint(customer_id) limit {count}")
    return sorted(warehouse.query(cloud, sql, t=newest_snapshot(cloud))["customer_id"], key=int)


def newest_rows(cloud: Cloud, customers: list[str]) -> pd.DataFrame:
    """The newest row of each of these customers, by customer_id: what training would see now."""
    sql = (f"select * from `{cloud.settings.table('features')}` where customer_id in "
           "unnest(@customers) qualify row_number() over "
           "(partition by customer_id order by feature_timestamp desc) = 1")
    return warehouse.query(cloud, sql, customers=customers).set_index("customer_id").loc[customers]


def newest_row(cloud: Cloud, customer_id: str) -> pd.Series:
    """The newest row of one customer."""
    return newest_rows(cloud, [customer_id]).iloc[0]


def instance(cloud: Cloud, row: pd.Series) -> dict[str, object]:
    """The features of a row as plain values by name, None for NULL: what an endpoint takes."""
    values = {name: row[name] for name in cloud.settings.feature_names}
    return {k: None if pd.isna(v) else float(v) for k, v in values.items()}


def base_rate(cloud: Cloud) -> float:
    """The overall share of label 1: what guessing would say of everyone."""
    settings = cloud.settings
    sql = f"select avg({settings.label.column}) as rate from `{settings.table('labels')}`"
    return float(warehouse.query(cloud, sql)["rate"][0])


def silent_customer(cloud: Cloud) -> str:
    """A customer with two orders, the last 100 to 200 days before the newest snapshot: features
    over 90 days have nothing to go by. The same one each time."""
    sql = (f"select customer_id from `{cloud.settings.table('features')}` where "
           "feature_timestamp = @t and days_since_last_order between 100 and 200 "
           "and orders_lifetime = 2 order by customer_id limit 1")
    return warehouse.query(cloud, sql, t=newest_snapshot(cloud))["customer_id"][0]


def example_label(train: pd.DataFrame, label_column: str) -> pd.Series:
    """A row of train_dataset that makes a good picture: two recent orders, and one to come."""
    good = train[(train["orders_90d"] == 2) & (train[label_column] == 0)]
    rows = good if len(good) else train[train["feature_timestamp"].notna()]
    middle = rows["label_timestamp"].quantile(0.5, interpolation="nearest")
    return rows[rows["label_timestamp"] == middle].sort_values("customer_id").iloc[0]
