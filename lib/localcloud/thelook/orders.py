"""The tables orders and order_items."""

import numpy as np
import pyarrow as pa

from lib.localcloud.thelook.draw import (
    DAY,
    HOUR,
    MINUTE,
    WEIGHTS,
    Columns,
    lay_out,
    pick,
    text,
    timestamps,
)
from lib.localcloud.thelook.products import MEN, WOMEN

STATUSES = list(WEIGHTS["statuses"])


def draw(rng: np.random.Generator, people: Columns, now: int) -> Columns:
    """Draw the orders of all users: times in seconds, status as its position in STATUSES.

    Ids run in the order of the users, not of time, as in the original.
    """
    per_user = pick(rng, WEIGHTS["orders_per_user"], len(people["id"]))
    user = np.repeat(np.arange(len(people["id"])), per_user)
    signed_up = people["created_at"][user]
    created = signed_up + rng.integers(0, now - signed_up)
    count = len(user)
    return {
        "order_id": np.arange(1, count + 1),
        "user_id": people["id"][user],
        "is_male": people["is_male"][user],
        "created_at": created,
        "num_of_item": 1 + pick(rng, WEIGHTS["items_per_order"], count),
        **_fulfilment(rng, created),
    }


def _fulfilment(rng: np.random.Generator, created: np.ndarray) -> Columns:
    """Draw status, and ship, deliver and return times in seconds, for orders of any age.

    Every order gets all times; `_reached` removes those that its status has not reached.
    """
    count = len(created)
    shipped = created + MINUTE * rng.integers(0, 3 * DAY // MINUTE, count)
    delivered = shipped + MINUTE * rng.integers(0, 5 * DAY // MINUTE, count)
    returned = delivered + MINUTE * rng.integers(0, 3 * DAY // MINUTE, count)
    return {
        "status": pick(rng, WEIGHTS["statuses"].values(), count),
        "shipped_at": shipped,
        "delivered_at": delivered,
        "returned_at": returned,
    }


def _reached(rows: Columns) -> dict[str, pa.Array]:
    """Status and its times as columns; a time that the status has not reached is null."""
    status = np.array(STATUSES)[rows["status"]]
    return {
        "status": text(STATUSES, rows["status"]),
        "shipped_at": timestamps(
            rows["shipped_at"], np.isin(status, ["Shipped", "Complete", "Returned"])),
        "delivered_at": timestamps(
            rows["delivered_at"], np.isin(status, ["Complete", "Returned"])),
        "returned_at": timestamps(rows["returned_at"], status == "Returned"),
    }


def table(orders: Columns) -> pa.Table:
    """The orders, in the columns of their schema."""
    return lay_out("orders", {
        "order_id": orders["order_id"],
        "user_id": orders["user_id"],
        "gender": text(["F", "M"], orders["is_male"]),
        "created_at": timestamps(orders["created_at"]),
        "num_of_item": orders["num_of_item"],
        **_reached(orders),
    })


def draw_items(rng: np.random.Generator, orders: Columns, cents: np.ndarray) -> Columns:
    """Draw the items of all orders: a product for the customer's gender, at its retail price.

    Args:
        cents: retail price by product id - 1.
    """
    order = np.repeat(np.arange(len(orders["order_id"])), orders["num_of_item"])
    is_male = orders["is_male"][order]
    product = rng.integers(
        np.where(is_male == 1, WOMEN + 1, 1), np.where(is_male == 1, WOMEN + MEN, WOMEN) + 1
    )
    moved = _clicks(rng, orders["num_of_item"][order])
    copied = ("order_id", "user_id", "status", "shipped_at", "delivered_at", "returned_at")
    return {
        "id": np.arange(1, len(order) + 1),
        **{column: orders[column][order] for column in copied},
        "product_id": product,
        "inventory_item_id": _inventory_ids(rng, len(order)),
        "created_at": orders["created_at"][order] + moved,
        "cents": cents[product - 1],
    }


def _clicks(rng: np.random.Generator, num_of_item: np.ndarray) -> np.ndarray:
    """Draw by how many seconds each item's time differs from its order's.

    A visit starts up to four hours before the order. An order of one item is five clicks of
    up to three minutes each. One of n items is 3n clicks, and each item is also 0 to 4 whole
    days later: a defect of the original that a pipeline has to handle.
    """
    count = len(num_of_item)
    clicks = np.where(num_of_item == 1, 5, 3 * num_of_item)
    most = 3 * len(WEIGHTS["items_per_order"])
    seconds = rng.integers(0, 180, (count, most)) * (np.arange(most) < clicks[:, None])
    days = np.where(num_of_item == 1, 0, rng.integers(0, 5, count))
    return seconds.sum(axis=1) + DAY * days - rng.integers(0, 4 * HOUR, count)


def _inventory_ids(rng: np.random.Generator, count: int) -> np.ndarray:
    """Stock ids of the items: each points to the last unsold copy.

    So it never matches the row of the copy that was sold, as in the original.
    """
    return np.cumsum(2 + pick(rng, WEIGHTS["unsold_per_item"], count))


def items_table(items: Columns) -> pa.Table:
    """The order items, in the columns of their schema."""
    plain = ("id", "order_id", "user_id", "product_id", "inventory_item_id")
    return lay_out("order_items", {
        **{column: items[column] for column in plain},
        "created_at": timestamps(items["created_at"]),
        "sale_price": items["cents"] / 100,
        **_reached(items),
    })
