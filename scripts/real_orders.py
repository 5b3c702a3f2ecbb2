"""Turn CDNOW_master.txt into a folder of orders for `./run_all.sh --source`.

    .venv/bin/python -m scripts.real_orders CDNOW_master.txt FOLDER

The file has a line of names, then a line per order: customer, day (yyyymmdd), number of CDs,
dollars. FOLDER gets orders.csv and order_items.csv, with an item for each order, of one product:
the file does not say which CDs. Users and products are left out (lib/README.md, "Bring your own
orders"), so a customer's first order counts as the sign-up. Called by scripts/real_orders.sh.

Exit status: 0 written, 1 the file cannot be used.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

COLUMNS = ["customer", "day", "cds", "dollars"]


class BadFile(ValueError):
    """The file is not of the form above; the message says where."""


def convert(master: Path) -> dict[str, pd.DataFrame]:
    """The rows of both files by table name, orders numbered from 1 in the order of the lines.

    Raises:
        BadFile: there is no such file, or a line in it is no order.
    """
    try:
        found = pd.read_csv(master, sep=r"\s+", skiprows=1, names=COLUMNS, dtype=str)
    except (OSError, ValueError) as error:
        raise BadFile(f"{master} cannot be read: {error}") from None
    days = pd.to_datetime(found["day"], format="%Y%m%d", errors="coerce")
    numbers = found[["customer", "cds", "dollars"]].apply(pd.to_numeric, errors="coerce")
    bad = days.isna() | numbers.isna().any(axis=1)
    if bad.any() or found.empty:
        line = bad.idxmax() + 2 if len(found) else 1
        raise BadFile(f"{master}, line {line}: a customer, a day such as 19970101, a number of "
                      "CDs and dollars are expected")
    ids = range(1, len(found) + 1)
    return {
        "orders": pd.DataFrame({
            "order_id": ids, "user_id": numbers["customer"].astype(int),
            "created_at": days.dt.strftime("%Y-%m-%d 00:00:00Z")}),
        "order_items": pd.DataFrame({
            "id": ids, "order_id": ids, "product_id": 1, "sale_price": numbers["dollars"]})}


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.real_orders", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("master", type=Path, help="CDNOW_master.txt")
    parser.add_argument("folder", type=Path, help="where to write the two files")
    options = parser.parse_args(arguments)
    try:
        tables = convert(options.master)
    except BadFile as error:
        print(error, file=sys.stderr)
        return 1
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        rows.to_csv(options.folder / f"{name}.csv", index=False)
    orders = tables["orders"]
    print(f"{options.folder}: {len(orders):,} orders of {orders['user_id'].nunique():,} customers, "
          f"{orders['created_at'].min()[:10]} to {orders['created_at'].max()[:10]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
