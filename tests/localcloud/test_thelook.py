"""The synthetic theLook, compared with statistics of the public dataset (July 2026).

Where the expected figure is a parameter of the process, it may be missed by 4 standard errors
of our sample of 100,000 users. Where it was itself measured on one sample of that size, the
two errors add up: 4 * sqrt(2) standard errors. Rounding of a published figure is added. No
tolerance was chosen by looking at the result.
"""

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from lib.localcloud import thelook

USERS = 100_000
AS_OF = datetime(2026, 7, 3, 0, 40, tzinfo=UTC)
DAY = 86_400
SIGMAS = 4
MEASURED = SIGMAS * 2**0.5

# E[k^2] / E[k] for the number of orders and of items: by how much counting orders (items)
# spreads wider than Poisson, if all of a user's orders (an order's items) fall together.
SPREAD_ORDERS = (0.50 * 1 + 0.20 * 4 + 0.05 * 9 + 0.05 * 16) / 1.25
SPREAD_ITEMS = SPREAD_ORDERS * (0.70 * 1 + 0.20 * 4 + 0.05 * 9 + 0.05 * 16) / 1.45


@pytest.fixture(scope="session")
def tables():
    return thelook.generate(users=USERS, seed=7, as_of=AS_OF)


def numbers(table, column):
    """Return a column as numpy; times as seconds since 1970, with nulls dropped."""
    values = table[column].drop_null()
    if pa.types.is_timestamp(values.type):
        return values.cast(pa.int64()).to_numpy() / 1_000_000
    return values.to_numpy()


def within_share(got, expected, n, sigmas=SIGMAS, rounding=0.0):
    """Is a share of n independent draws within the tolerance?"""
    return abs(got - expected) <= sigmas * (expected * (1 - expected) / n) ** 0.5 + rounding


def within_count(got, measured, spread=1.0):
    """Is a count within the tolerance of a measured one? Its variance is spread * count."""
    return abs(got - measured) <= MEASURED * (spread * measured) ** 0.5


def shares(values):
    """Return value -> share."""
    names, counts = np.unique(np.asarray(values), return_counts=True)
    return dict(zip(names.tolist(), (counts / counts.sum()).tolist(), strict=True))


def at_quantile(values, value, share, n, rounding):
    """Is `value`, published to +- rounding, the given quantile of values?

    The share of values below it has to be right; of values that stand there many times, both
    sides count.
    """
    slack = MEASURED * (share * (1 - share) / n) ** 0.5
    below = np.mean(values < value - rounding)
    up_to = np.mean(values <= value + rounding)
    return below - slack <= share <= up_to + slack


# --- schema --------------------------------------------------------------------------------


def test_schemas_are_those_of_the_public_dataset():
    columns = {name: " ".join(column for column, _ in rows)
               for name, rows in thelook.SCHEMAS.items()}
    assert columns == {
        "users": "id first_name last_name email age gender state street_address postal_code "
        "city country latitude longitude traffic_source created_at user_geom",
        "orders": "order_id user_id status gender created_at returned_at shipped_at "
        "delivered_at num_of_item",
        "order_items": "id order_id user_id product_id inventory_item_id status created_at "
        "shipped_at delivered_at returned_at sale_price",
        "products": "id cost category name brand retail_price department sku "
        "distribution_center_id",
    }
    types = {column: kind for rows in thelook.SCHEMAS.values() for column, kind in rows}
    others = {
        "cost": "FLOAT64", "retail_price": "FLOAT64", "sale_price": "FLOAT64",
        "latitude": "FLOAT64", "longitude": "FLOAT64", "user_geom": "GEOGRAPHY",
    }
    for column, kind in types.items():
        is_integer = column.endswith("id") or column in ("age", "num_of_item")
        expected = "TIMESTAMP" if column.endswith("_at") else "INT64" if is_integer else "STRING"
        assert kind == others.get(column, expected), column


def test_tables_have_the_schema(tables):
    arrow = {
        "INT64": pa.int64(), "FLOAT64": pa.float64(), "STRING": pa.string(),
        "GEOGRAPHY": pa.string(), "TIMESTAMP": pa.timestamp("us", tz="UTC"),
    }
    assert list(tables) == list(thelook.SCHEMAS)
    for name, table in tables.items():
        expected = [(column, arrow[kind]) for column, kind in thelook.SCHEMAS[name]]
        assert [(field.name, field.type) for field in table.schema] == expected


def test_only_what_may_be_unknown_is_null(tables):
    times = {"returned_at", "shipped_at", "delivered_at"}
    may = {"users": set(), "orders": times, "order_items": times, "products": {"brand", "name"}}
    for name, table in tables.items():
        with_nulls = {column for column in table.column_names if table[column].null_count}
        assert with_nulls == may[name]


# --- determinism ---------------------------------------------------------------------------


def digest(tables):
    """Return a digest of all values, independent of how arrow lays them out in memory."""
    total = hashlib.sha256()
    for name, table in tables.items():
        total.update(name.encode())
        for column in table.column_names:
            values = table[column]
            if pa.types.is_timestamp(values.type):
                values = values.cast(pa.int64())
            total.update(json.dumps([column, values.to_pylist()]).encode())
    return total.hexdigest()


def test_same_seed_same_tables():
    small = thelook.generate(users=300, seed=7, as_of=AS_OF)
    again = thelook.generate(users=300, seed=7, as_of=AS_OF)
    assert digest(small) == digest(again)
    # A constant, so that other processes, machines and versions have to agree too. Only a change
    # of how the tables are drawn may change it.
    assert digest(small) == "bb1b95b8a933f8667c4523798397e5a0f6034a5566827966569179b435c109ab"


def test_another_seed_gives_other_tables():
    one, other = (thelook.generate(users=300, seed=seed, as_of=AS_OF) for seed in (7, 8))
    for name in thelook.SCHEMAS:
        assert not one[name].equals(other[name]), name


def test_products_do_not_depend_on_users_or_time(tables):
    other = thelook.generate(users=10, seed=7, as_of=AS_OF - timedelta(days=500))
    assert other["products"].equals(tables["products"])


def test_time_zone_of_as_of_does_not_matter():
    seoul = AS_OF.astimezone(timezone(timedelta(hours=9)))
    one, other = (thelook.generate(users=50, seed=7, as_of=at) for at in (AS_OF, seoul))
    assert all(one[name].equals(other[name]) for name in one)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"users": 0}, "users must be at least 1, got 0"),
        ({"seed": -1}, "seed must not be negative"),
        ({"as_of": datetime(2026, 7, 3)}, "as_of needs a time zone"),
        ({"as_of": datetime(2019, 1, 8, tzinfo=UTC)}, "2019-01-09 or later"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        thelook.generate(**{"users": 1, "seed": 7, "as_of": AS_OF} | arguments)


def test_the_smallest_and_the_earliest_dataset_can_be_drawn():
    first = datetime(2019, 1, 9, tzinfo=UTC)
    for seed in range(5):  # about one user in five has no order: empty tables must work too
        tables = thelook.generate(users=1, seed=seed, as_of=first)
        assert tables["users"].num_rows == 1
        assert tables["order_items"].num_rows >= tables["orders"].num_rows


# --- users ---------------------------------------------------------------------------------


def test_columns_of_users(tables):
    users = tables["users"]
    assert numbers(users, "id").tolist() == list(range(1, USERS + 1))
    age = numbers(users, "age")
    assert (age.min(), age.max()) == (12, 70)
    assert abs(age.mean() - 41) <= SIGMAS * ((59**2 - 1) / 12 / USERS) ** 0.5
    expected = {
        "gender": {"F": 0.5, "M": 0.5},
        "traffic_source": {
            "Search": 0.70, "Organic": 0.15, "Facebook": 0.06, "Email": 0.05, "Display": 0.04,
        },
    }
    for column, wanted in expected.items():
        got = shares(users[column])
        assert set(got) == set(wanted)
        assert all(within_share(got[value], wanted[value], USERS) for value in wanted)


def test_countries_have_their_shares(tables):
    expected = {
        "China": 0.34, "United States": 0.22, "Brasil": 0.145, "South Korea": 0.055,
        "France": 0.05, "United Kingdom": 0.046, "Germany": 0.042, "Spain": 0.04,
        "Japan": 0.024, "Australia": 0.022, "Belgium": 0.013, "Poland": 0.002,
    }
    got = shares(tables["users"]["country"])
    for country, share in expected.items():
        rounding = 0.005 if share in (0.34, 0.22, 0.05, 0.04) else 0.0005
        assert within_share(got.pop(country), share, USERS, rounding=rounding), country
    assert set(got) == {"Colombia", "Austria", "España", "Deutschland"}
    assert 0 < sum(got.values()) < 0.003
    assert "null" in tables["users"]["city"].unique().to_pylist()


def test_user_geom_is_the_point_of_longitude_and_latitude(tables):
    rows = tables["users"].slice(0, 200).to_pylist()
    for row in rows:
        assert row["user_geom"] == f"POINT({row['longitude']} {row['latitude']})"
        assert -90 <= row["latitude"] <= 90


def test_sign_ups_are_uniform_with_a_burst_at_the_end(tables):
    created = numbers(tables["users"], "created_at")
    assert np.all(created % 60 == 0)
    first, last = created.min(), created.max()
    assert first >= datetime(2019, 1, 2, tzinfo=UTC).timestamp()
    assert last < AS_OF.timestamp()
    assert within_count(np.sum(created > AS_OF.timestamp() - 7 * DAY), 2_732)
    before = created[created < datetime(2026, 6, 26, tzinfo=UTC).timestamp()]
    assert np.all(before % DAY < 19 * 3_600)
    years = shares(before.astype("datetime64[s]").astype("datetime64[Y]").astype(int) + 1970)
    days = 2_733  # 2019-01-02 .. 2026-06-25
    for year in range(2020, 2026):
        length = 366 if year in (2020, 2024) else 365
        assert within_share(years[year], length / days, len(before)), year


# --- orders --------------------------------------------------------------------------------


def test_orders_per_user(tables):
    per_user = np.bincount(numbers(tables["orders"], "user_id"), minlength=USERS + 1)[1:]
    got = shares(per_user)
    expected = {0: 0.20, 1: 0.50, 2: 0.20, 3: 0.05, 4: 0.05}
    assert set(got) == set(expected)  # hard cap: never a fifth order
    for count, share in expected.items():
        assert within_share(got[count], share, USERS), count
    assert within_count(tables["orders"].num_rows, 124_972, spread=SPREAD_ORDERS)


def test_status_and_items_per_order(tables):
    orders = tables["orders"]
    expected = {
        "status": {"Shipped": 0.30, "Complete": 0.25, "Processing": 0.20, "Cancelled": 0.15,
                   "Returned": 0.10},
        "num_of_item": {1: 0.70, 2: 0.20, 3: 0.05, 4: 0.05},
    }
    for column, wanted in expected.items():
        got = shares(orders[column])
        assert set(got) == set(wanted)
        for value, share in wanted.items():
            assert within_share(got[value], share, orders.num_rows), value


def test_no_order_before_sign_up_or_after_the_snapshot(tables):
    created = numbers(tables["orders"], "created_at")
    signed_up = numbers(tables["users"], "created_at")[numbers(tables["orders"], "user_id") - 1]
    assert np.all(created >= signed_up)
    assert np.all(created < AS_OF.timestamp())
    assert np.all(created % 1 == 0)


def test_orders_by_year(tables):
    created = numbers(tables["orders"], "created_at").astype("datetime64[s]")
    got = np.bincount(created.astype("datetime64[Y]").astype(int) + 1970 - 2019)
    measured = [1_091, 3_639, 6_770, 10_054, 14_656, 21_769, 33_635, 33_358]
    assert len(got) == len(measured)
    for year, count, expected in zip(range(2019, 2027), got, measured, strict=True):
        assert within_count(count, expected, SPREAD_ORDERS), (year, count, expected)


def gaps_in_days(tables):
    """Return days between successive orders of the same user."""
    user = numbers(tables["orders"], "user_id")
    created = numbers(tables["orders"], "created_at")
    order = np.lexsort((created, user))
    same = np.diff(user[order]) == 0
    return np.diff(created[order])[same] / DAY


def test_gaps_between_orders(tables):
    gaps = gaps_in_days(tables)
    # Gaps of one user are correlated, so users with two or more orders count as the draws.
    draws = 0.30 * USERS
    # A user with k orders has k - 1 gaps: variance of their number over its mean.
    assert within_count(len(gaps), 44_970, spread=(0.20 * 1 + 0.05 * 4 + 0.05 * 9) / 0.45)
    quantiles = {
        0.05: (4.1, 0.05), 0.25: (66.6, 0.05), 0.50: (219, 0.5), 0.75: (519, 0.5),
        0.95: (1_211, 0.5),
    }
    for share, (days, rounding) in quantiles.items():
        assert at_quantile(gaps, days, share, draws, rounding), share
    for days, share in {7: 0.065, 30: 0.150, 60: 0.233, 90: 0.300, 180: 0.450, 365: 0.645}.items():
        assert within_share(np.mean(gaps <= days), share, draws, MEASURED, 0.0005), days


def test_status_decides_which_times_are_known(tables):
    known = {
        "shipped_at": {"Shipped", "Complete", "Returned"},
        "delivered_at": {"Complete", "Returned"},
        "returned_at": {"Returned"},
    }
    for column, statuses in known.items():
        has = pc.is_valid(tables["orders"][column]).to_numpy()
        expected = np.isin(tables["orders"]["status"].to_pylist(), list(statuses))
        assert np.array_equal(has, expected), column


def test_ship_deliver_and_return_times_follow_each_other(tables):
    orders = tables["orders"]
    steps = [("created_at", "shipped_at", 3), ("shipped_at", "delivered_at", 5),
             ("delivered_at", "returned_at", 3)]
    for earlier, later, days in steps:
        both = orders.filter(pc.is_valid(orders[later]))
        took = numbers(both, later) - numbers(both, earlier)
        assert np.all((took >= 0) & (took < days * DAY) & (took % 60 == 0))
        spread = days * DAY / 12**0.5
        assert abs(took.mean() - days * DAY / 2) <= SIGMAS * spread / len(took) ** 0.5 + 30


def test_future_dated_times(tables):
    # Because of the sign-up burst, few users have many of the orders of the last days.
    future = {"shipped_at": 1_481, "delivered_at": 1_404, "returned_at": 458}
    for column, measured in future.items():
        got = np.sum(numbers(tables["orders"], column) > AS_OF.timestamp())
        assert within_count(got, measured, SPREAD_ORDERS), (column, got)
    got = np.sum(numbers(tables["order_items"], "created_at") > AS_OF.timestamp())
    assert within_count(got, 1_921, SPREAD_ITEMS), got


# --- order items ---------------------------------------------------------------------------


def order_rows(tables):
    """Return for each item the position of its order; order ids count from 1."""
    return numbers(tables["order_items"], "order_id") - 1


def test_items_belong_to_their_orders(tables):
    orders, items = tables["orders"], tables["order_items"]
    assert numbers(orders, "order_id").tolist() == list(range(1, orders.num_rows + 1))
    assert numbers(items, "id").tolist() == list(range(1, items.num_rows + 1))
    assert np.all(np.diff(numbers(orders, "user_id")) >= 0)  # ids in the order of the users
    row = order_rows(tables)
    assert np.array_equal(np.bincount(row), numbers(orders, "num_of_item"))
    copied = ["user_id", "status", "shipped_at", "delivered_at", "returned_at"]
    assert items.select(copied).equals(orders.select(copied).take(row).combine_chunks())
    users_gender = tables["users"]["gender"].take(numbers(orders, "user_id") - 1)
    assert orders["gender"].combine_chunks().equals(users_gender.combine_chunks())


def test_items_are_products_for_the_customer_at_retail_price(tables):
    product = tables["products"].take(numbers(tables["order_items"], "product_id") - 1)
    gender = tables["orders"]["gender"].take(order_rows(tables))
    wanted = pc.if_else(pc.equal(gender, "M"), "Men", "Women")
    assert product["department"].combine_chunks().equals(wanted.combine_chunks())
    prices = tables["order_items"]["sale_price"].combine_chunks()
    assert prices.equals(product["retail_price"].combine_chunks())


def test_sale_prices(tables):
    prices = numbers(tables["order_items"], "sale_price")
    n = len(prices)
    assert abs(prices.mean() - 59.39) <= MEASURED * 65.7 / n**0.5
    assert prices.min() >= 0.02  # the cheapest product need not be sold
    assert prices.max() <= 999
    # standard error of a standard deviation, by the fourth moment: prices have a heavy tail
    fourth = np.mean((prices - prices.mean()) ** 4)
    error = ((fourth - prices.std() ** 4) / n) ** 0.5 / (2 * prices.std())
    assert abs(prices.std() - 65.7) <= MEASURED * error + 0.05
    quantiles = {
        0.05: (10.5, 0.05), 0.25: (24.5, 0.05), 0.50: (40.0, 0.05), 0.75: (69.7, 0.05),
        0.95: (171, 0.5), 0.99: (300, 0.5),
    }
    for share, (price, rounding) in quantiles.items():
        assert at_quantile(prices, price, share, n, rounding), share
    gender = np.asarray(tables["orders"]["gender"].take(order_rows(tables)))
    for value, mean in {"M": 62.9, "F": 55.9}.items():
        own = prices[gender == value]
        assert abs(own.mean() - mean) <= MEASURED * own.std() / len(own) ** 0.5 + 0.05


def test_order_values(tables):
    prices = numbers(tables["order_items"], "sale_price")
    value = np.bincount(order_rows(tables), weights=prices)
    assert abs(value.mean() - 86.3) <= MEASURED * value.std() / len(value) ** 0.5 + 0.05
    assert at_quantile(value, 55.5, 0.50, len(value), 0.05)
    assert at_quantile(value, 255, 0.95, len(value), 0.5)


def test_item_times_are_moved_away_from_the_order(tables):
    row = order_rows(tables)
    moved = numbers(tables["order_items"], "created_at")
    moved = moved - numbers(tables["orders"], "created_at")[row]
    count = numbers(tables["orders"], "num_of_item")[row]
    single, several = moved[count == 1], moved[count > 1]
    assert -4 * 3_600 < single.min() < -3.9 * 3_600
    assert 0 < single.max() < 5 * 180
    assert within_share(np.mean(single < 0), 0.97, len(single), rounding=0.005)
    assert several.min() > -4 * 3_600
    assert 96 * 3_600 < several.max() < 96 * 3_600 + 12 * 180
    assert within_share(np.mean(several > 0), 0.81, len(several), rounding=0.005)
    whole_days = np.floor((moved + 4 * 3_600) / DAY)
    got = shares(whole_days[count > 1])
    assert set(got) == {0, 1, 2, 3, 4}
    for days, share in got.items():
        assert within_share(share, 0.2, len(several)), days
    for items, clicks in {1: 5, 2: 6, 3: 9, 4: 12}.items():  # of 0 to 179 seconds each
        seconds = (moved - DAY * whole_days)[count == items]
        expected = clicks * 89.5 - (4 * 3_600 - 1) / 2
        assert abs(seconds.mean() - expected) <= SIGMAS * seconds.std() / len(seconds) ** 0.5


def test_item_times_break_the_order_of_events_as_often_as_in_the_original(tables):
    items = tables["order_items"]
    signed_up = numbers(tables["users"], "created_at")[numbers(items, "user_id") - 1]
    early = np.sum(numbers(items, "created_at") < signed_up)
    assert within_count(early, 154, SPREAD_ITEMS), early
    shipped = items.filter(pc.is_valid(items["shipped_at"]))
    share = np.mean(numbers(shipped, "shipped_at") < numbers(shipped, "created_at"))
    orders = len(np.unique(numbers(shipped, "order_id")))  # items of an order ship together
    assert within_share(share, 0.30, orders, rounding=0.005)


def test_inventory_ids_skip_one_to_three_unsold_copies(tables):
    ids = numbers(tables["order_items"], "inventory_item_id")
    got = shares(np.diff(ids, prepend=0))
    assert set(got) == {2, 3, 4}
    for step, share in {2: 0.5, 3: 0.3, 4: 0.2}.items():
        assert within_share(got[step], share, len(ids)), step


# --- products ------------------------------------------------------------------------------


def test_the_catalogue(tables):
    products = tables["products"]
    assert numbers(products, "id").tolist() == list(range(1, 29_121))
    counts = products["department"].value_counts().to_pylist()
    assert {row["values"]: row["counts"] for row in counts} == {"Men": 13_131, "Women": 15_989}
    assert pc.count_distinct(products["category"]).as_py() == 26
    assert pc.count_distinct(products["brand"]).as_py() == 2_756
    assert products["brand"].null_count == 24
    assert products["name"].null_count == 2
    prices, cost = numbers(products, "retail_price"), numbers(products, "cost")
    assert (prices.min(), prices.max()) == (0.02, 999.0)
    assert np.all(np.round(prices, 2) == prices)
    assert abs(np.mean(cost / prices) - 0.49) <= 0.005
    assert np.all(cost < prices)
    assert set(numbers(products, "distribution_center_id").tolist()) == set(range(1, 11))
    assert pc.all(pc.match_substring_regex(products["sku"], "^[0-9A-F]{32}$")).as_py()
    assert pc.count_distinct(products["sku"]).as_py() == 29_120


# --- churn: what the demo predicts ---------------------------------------------------------


def churn_rows(tables, horizon):
    """Return the labelled rows of 26 weekly times t, by brute force over the orders.

    Args:
        horizon: N in days. A user with an order in (t - 90 d, t] counts, and has churned if
            there is none in (t, t + N].

    Returns:
        Arrays, one entry per row: week, user (position), churned, orders so far, tenure (s).
    """
    user = numbers(tables["orders"], "user_id") - 1
    created = numbers(tables["orders"], "created_at")
    signed_up = numbers(tables["users"], "created_at")
    last = datetime(2026, 7, 3, tzinfo=UTC).timestamp() - horizon * DAY
    weeks = []
    for week in range(26):
        t = last - (25 - week) * 7 * DAY
        active = np.bincount(user[(created > t - 90 * DAY) & (created <= t)], minlength=USERS)
        again = np.bincount(user[(created > t) & (created <= t + horizon * DAY)], minlength=USERS)
        so_far = np.bincount(user[created <= t], minlength=USERS)
        who = np.flatnonzero(active)
        churned, tenure = again[who] == 0, t - signed_up[who]
        weeks.append((np.full(len(who), week), who, churned, so_far[who], tenure))
    return [np.concatenate(column) for column in zip(*weeks, strict=True)]


def clustered_error(user, churned):
    """Return the standard error of a churn rate over rows that repeat users.

    Linearised ratio of sums over users, who are independent of each other.
    """
    rows = np.bincount(user, minlength=USERS)
    misses = np.bincount(user, weights=churned, minlength=USERS) - churned.mean() * rows
    return np.sqrt(np.sum(misses**2)) / rows.sum()


@pytest.mark.parametrize(("horizon", "rate", "users"), [(60, 0.8955, 10_046), (90, 0.8644, 9_533)])
def test_churn_rate(tables, horizon, rate, users):
    week, user, churned, _, _ = churn_rows(tables, horizon)
    by_week = np.bincount(week, weights=churned) / np.bincount(week)
    error = clustered_error(user, churned)
    assert abs(by_week.mean() - rate) <= MEASURED * error + 0.00005
    assert MEASURED * error < 0.02  # small enough to detect a wrong process
    # churn falls over the weeks, since orders get denser towards the end
    assert by_week[0] - by_week[-1] > 0.03
    # rows of one user repeat over the weeks, so the spread of a single week is what counts
    assert within_count(len(user) / 26, users, SPREAD_ORDERS)


def test_churn_by_what_carries_signal(tables):
    _, user, churned, so_far, tenure = churn_rows(tables, 60)
    groups = [(so_far == 1, 0.894), (so_far == 2, 0.904), (so_far == 3, 0.813)]
    edges = [0, 30, 90, 180, 365, 730, 10_000]
    for low, high, rate in zip(
        edges, edges[1:], [0.666, 0.739, 0.795, 0.859, 0.913, 0.957], strict=False
    ):
        groups.append(((tenure >= low * DAY) & (tenure < high * DAY), rate))
    for rows, rate in groups:
        error = clustered_error(user[rows], churned[rows])
        assert abs(churned[rows].mean() - rate) <= MEASURED * error + 0.0005, rate
    assert np.all(churned[so_far == 4])  # never a fifth order
