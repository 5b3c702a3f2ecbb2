"""The source as a whole: what in it would make the demo meaningless, and what is only said.

For an export and for a BigQuery dataset. sql/checks/source.sql counts, this module judges.
"""

import math

import pandas as pd

from lib.config import Settings
from lib.config_rules import shortest_history
from lib.errors import Needed

# Column of sql/checks/source.sql -> table, what its rows are, and what sql/01 does with them.
UNUSABLE = {
    "orders_of_unknown_users": ("orders", "have a user_id that is not in users", "left out"),
    "orders_before_sign_up": ("orders", "are older than their user's sign-up", "left out"),
    "orders_without_items": ("orders", "have no row in order_items", "kept, without revenue"),
    "items_of_unknown_orders": (
        "order_items", "have an order_id that is not in orders", "left out"),
    "items_of_unknown_products": (
        "order_items", "have a product_id that is not in products", "kept, without a category"),
    "items_with_negative_price": ("order_items", "have a sale_price below 0", "left out"),
    "items_without_price": ("order_items", "have no sale_price", "kept, without revenue"),
    "items_returned_too_early": (
        "order_items", "have a returned_at before their order", "kept, as returned"),
    "products_without_category": ("products", "have no category", "kept, without a category"),
}
KEYS = {"users": "id", "orders": "order_id", "order_items": "id", "products": "id"}


def require(facts: dict, newest: pd.DataFrame | None, settings: Settings) -> dict[str, str]:
    """Check the source as a whole.

    Args:
        facts: the row of sql/checks/source.sql.
        newest: the rows of sql/checks/orders_after.sql, if there are thin weeks and others before.

    Returns:
        Column of sql/checks/source.sql -> sentence about the rows: those of UNUSABLE that are few
        enough to go on, and returned_items if there are none.

    Raises:
        Needed: the demo would be meaningless: a key given twice, too many unusable rows, too short
            a time, a calendar that follows some stray orders, or too few customers. The message
            has the number that is needed.
    """
    doubled = [f"{facts[f'{table}_doubled']:,} rows of {table} repeat the {key} of another"
               for table, key in KEYS.items() if facts[f"{table}_doubled"]]
    if doubled:
        raise Needed("; ".join(doubled), "a source in which each row has an id of its own")
    found = _unusable(facts, settings)
    _require_time(facts, newest, settings)
    _require_customers(facts, settings)
    if not facts["returned_items"]:
        found["returned_items"] = ("no item was ever returned (returned_at is empty): every "
                                   "return rate is 0")
    return found


def _require_time(facts: dict, newest: pd.DataFrame | None, settings: Settings) -> None:
    horizon = settings.label.horizon_days
    days, needed = facts["days_of_orders"] or 0, horizon + shortest_history(settings)
    if days < needed:
        raise Needed(
            f"the orders span {days} days, too few for labels of {horizon} days and three splits",
            f"orders over {needed} days or more; no setting helps"
            + (" but label.horizon_days: 60" if horizon > 60 else ""))
    if facts["thin_weeks"]:
        raise _stray_orders(facts, newest, settings)


def _require_customers(facts: dict, settings: Settings) -> None:
    """Enough at the newest label date, which every history_days has."""
    found, least = facts["customers"], settings.checks.min_customers
    if found < least:
        users = math.ceil(facts["users"] * least / max(found, 1))
        raise Needed(
            f"{found:,} customers have an order in the {settings.label.active_days} days before "
            f"{facts['label_date']}, the newest date with a label; each date needs {least:,}",
            f"a larger export, of about {users:,} users instead of {facts['users']:,}; or a lower "
            "checks.min_customers, with which a churn rate says little")


def _unusable(facts: dict, settings: Settings) -> dict[str, str]:
    """The sentences about unusable rows; Needed if they are too many."""
    checks = settings.checks
    found, too_many = {}, []
    for name, (table, what, fate) in UNUSABLE.items():
        if not facts[name]:
            continue
        rate = facts[name] / facts[table]
        text = (f"{facts[name]:,} of {facts[table]:,} {table} ({rate:.1%}) {what}, for instance "
                f"{facts[f'{name}_id']}")
        found[name] = f"{text}: {fate}"
        too_many += [text] if rate > checks.max_unusable_rate else []
    if too_many:
        raise Needed(
            "; ".join(too_many),
            f"tables that belong together, with at most {checks.max_unusable_rate:.0%} of such "
            "rows (checks.max_unusable_rate)", "edit the source, or config.yaml")
    return found


def _stray_orders(facts: dict, newest: pd.DataFrame, settings: Settings) -> Needed:
    """The error for a newest order that is far from the others."""
    horizon = settings.label.horizon_days
    after = ""
    if newest is not None:
        count = int(newest["order_count"].iloc[0])
        named = [f"order {row.order_id} of user {row.user_id} at {row.ordered_at}"
                 for row in newest.itertuples()]
        after = (f". Orders after {facts['last_usual_date']}: {count:,}, namely "
                 + ", ".join(named + ["..."] * (count > len(named))))
    return Needed(
        f"{facts['thin_weeks']} of the last {math.ceil(horizon / 7)} weeks up to "
        f"{facts['last_date']} have less than {settings.checks.min_week_of_orders:.0%} of the "
        f"{facts['median_orders']:,} orders of a median week, and all dates count back from the "
        f"newest order{after}",
        "a source without these orders, or with their right dates; if they are right, orders in "
        f"each of the last {horizon} days")
