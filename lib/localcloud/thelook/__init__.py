"""A synthetic stand-in for `bigquery-public-data.thelook_ecommerce`, drawn from a seed.

The four tables that the demo reads (users, orders, order_items, products), with the schema of
the public dataset. It contains no row of the public dataset: names, addresses, brands and
products are made up; prices, shares and times follow the original.

How they are drawn (times are UTC, `as_of` is the moment of the snapshot):

- Sign-up: a uniform day since 2019-01-01, at a uniform minute between 00:00 and 19:00. One in
  forty signs up within the last six days instead, which is why the data ends in a burst.
- Orders of a customer: 0, 1, 2, 3 or 4 (.20 .50 .20 .05 .05), never more. Each order's time is
  uniform between sign-up and `as_of`, independent of the other orders.
- Status, number of items, product and price are drawn independently of time, of the customer
  and of each other; a product only has to match the customer's gender. Ship, deliver and
  return times follow the order by up to 3, 5 and 3 days and may lie after `as_of`.
- `order_items.created_at` is not the order's time. It starts up to four hours before it, and
  simulated clicks move it forward: minutes for an order of one item, 0 to 4 days for more.

Source of the numbers (values.toml and here): statistics of the public dataset and its
generator, measured in July 2026 at 100,000 users. `tests/localcloud/test_thelook.py` compares
the tables with them.

There is little to learn, as in the original. Age, country, basket and returns carry no signal:
they do not change what a customer does next. Only two things carry signal, both artefacts of
the process: the time since sign-up (orders are spread over [sign-up, as_of], so they are denser
for a short membership) and the number of orders so far (there is never a fifth). A churn model
cannot reach a ROC-AUC above about .80 on this data; a higher figure means leakage.

The draws are integers from PCG64, so a seed gives the same tables on every machine with the
pinned NumPy. `test_thelook.py` compares their digest, so it notices any change.
"""

from datetime import datetime

import pyarrow as pa

from lib.localcloud.thelook import customers, orders, products
from lib.localcloud.thelook.draw import DAY, FIRST_DAY, SCHEMAS, stream

__all__ = ["SCHEMAS", "generate"]

FEWEST_DAYS = 8  # the sign-up burst reaches a week back from as_of


def generate(users: int, seed: int, as_of: datetime) -> dict[str, pa.Table]:
    """Draw the tables of theLook as of one moment.

    Args:
        users: how many customers sign up. There are about 1.25 orders and 1.8 items for each.
        seed: not negative. The same seed, users and as_of give the same tables; products
            depend on the seed alone.
        as_of: the moment of the snapshot, with a time zone, at least eight days after
            2019-01-01. No sign-up and no order is later.

    Returns:
        Table name -> rows, with the columns of SCHEMAS in that order.

    Raises:
        ValueError: an argument is out of its range.
    """
    if users < 1:
        raise ValueError(f"users must be at least 1, got {users}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    now = _now_seconds(as_of)
    catalogue = products.draw(stream(seed, "products"))
    people = customers.draw(stream(seed, "users"), users, now)
    bought = orders.draw(stream(seed, "orders"), people, now)
    items = orders.draw_items(stream(seed, "order_items"), bought, catalogue["cents"])
    return {
        "users": customers.table(stream(seed, "addresses"), people),
        "orders": orders.table(bought),
        "order_items": orders.items_table(items),
        "products": products.table(catalogue),
    }


def _now_seconds(as_of: datetime) -> int:
    """as_of in seconds since 1970; ValueError if it cannot be used."""
    if as_of.tzinfo is None:
        raise ValueError(f"as_of needs a time zone, got {as_of.isoformat()}")
    now = int(as_of.timestamp())
    if now < FIRST_DAY + FEWEST_DAYS * DAY:
        raise ValueError(f"as_of must be 2019-01-09 or later, got {as_of.isoformat()}")
    return now
