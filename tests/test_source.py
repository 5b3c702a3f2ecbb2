"""Reading an exported copy of theLook: what is accepted, and that all problems are reported."""

import bz2
import gzip
import lzma
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lib import source
from lib.source import NEEDED, SourceError, read_export

# Columns in another order than NEEDED, and more of them, as a real export has.
CSV = {
    "users": [
        "id,first_name,age,gender,country,traffic_source,created_at",
        "1,Ada,31,F,China,Search,2022-07-17 13:08:00+00:00",
        '2,"Bo ""B"", jr",44,M,Brasil,Email,2023-01-02 03:04:00+00:00',
    ],
    "orders": [
        "order_id,user_id,status,gender,created_at,returned_at,num_of_item",
        "1,1,Complete,F,2022-08-01 10:00:00+00:00,,2",
        "2,2,Returned,M,2023-02-01 10:00:00+00:00,2023-02-09 10:00:00+00:00,1",
    ],
    "order_items": [
        "id,order_id,user_id,product_id,status,created_at,returned_at,sale_price",
        "1,1,1,10,Complete,2022-08-01 09:00:00+00:00,,19.99",
        "2,1,1,11,Complete,2022-08-02 09:00:00+00:00,,5",
        "3,2,2,12,Returned,2023-02-01 09:00:00+00:00,2023-02-09 10:00:00+00:00,0.5",
    ],
    "products": [
        "id,cost,category,name,brand,retail_price,department",
        "10,9.5,Jeans,Blue Jeans,Acme,19.99,Women",
        "11,2.5,,,,5.0,Women",
        "12,.2,Socks,Crew,Acme,0.50,Men",
    ],
}


def write_csv(folder, **changed):
    """Write the export above; keyword arguments replace the lines of a table."""
    for name, lines in {**CSV, **changed}.items():
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_parquet(folder, name, **columns):
    """Replace a table of the CSV export by a parquet file; columns replace its columns."""
    table = read_export(write_csv(folder))[name]
    (folder / f"{name}.csv").unlink()
    for column, values in columns.items():
        table = table.set_column(table.column_names.index(column), column, values)
    pq.write_table(table, folder / f"{name}.parquet")
    return folder


def problems(folder):
    with pytest.raises(SourceError) as error:
        read_export(folder)
    return error.value.problems


def orders_with(line):
    """Return the lines of orders with a third order."""
    return [*CSV["orders"], line]


def items_with(line):
    """Return the lines of order_items with a fourth item."""
    return [*CSV["order_items"], line]


# --- what is accepted ----------------------------------------------------------------------


def test_csv_is_read_with_the_needed_columns_and_types(tmp_path):
    tables = read_export(write_csv(tmp_path))
    arrow = {
        "INT64": pa.int64(), "FLOAT64": pa.float64(), "STRING": pa.string(),
        "TIMESTAMP": pa.timestamp("us", tz="UTC"),
    }
    assert list(tables) == ["users", "orders", "order_items", "products"]
    for name, table in tables.items():
        expected = [(column, arrow[kind]) for column, kind in NEEDED[name].items()]
        assert [(field.name, field.type) for field in table.schema] == expected
    assert tables["orders"].to_pylist() == [
        {"order_id": 1, "user_id": 1, "created_at": datetime(2022, 8, 1, 10, tzinfo=UTC)},
        {"order_id": 2, "user_id": 2, "created_at": datetime(2023, 2, 1, 10, tzinfo=UTC)},
    ]
    assert tables["order_items"].to_pylist() == [
        {"id": 1, "order_id": 1, "product_id": 10, "returned_at": None, "sale_price": 19.99},
        {"id": 2, "order_id": 1, "product_id": 11, "returned_at": None, "sale_price": 5.0},
        {"id": 3, "order_id": 2, "product_id": 12,
         "returned_at": datetime(2023, 2, 9, 10, tzinfo=UTC), "sale_price": 0.5},
    ]
    assert tables["products"]["category"].to_pylist() == ["Jeans", None, "Socks"]


def test_needed_is_what_the_demo_needs():
    assert {name: " ".join(sorted(columns)) for name, columns in NEEDED.items()} == {
        "users": "created_at id",
        "orders": "created_at order_id user_id",
        "order_items": "id order_id product_id returned_at sale_price",
        "products": "category id",
    }


def test_odd_values_in_csv_columns_that_are_not_needed_are_ignored(tmp_path):
    plain = read_export(write_csv(tmp_path))
    odd = {
        "users": [
            "id,age,gender,gender,created_at",  # an ignored column may repeat
            "1,old,,5,2022-07-17 13:08:00+00:00",
            "2,-1.5,,,2023-01-02 03:04:00+00:00",
        ],
        "orders": [
            "order_id,user_id,status,created_at,returned_at,num_of_item",
            "1,1,,2022-08-01 10:00:00+00:00,never,many",
            "2,2,7,2023-02-01 10:00:00+00:00,2023-13-01,",
        ],
        "order_items": [
            "id,order_id,user_id,product_id,created_at,returned_at,sale_price",
            "1,1,,10,,,19.99",
            "2,1,x,11,yesterday,,5",
            "3,2,1.5,12,1659348000,2023-02-09 10:00:00+00:00,0.5",
        ],
        "products": ["id,category,retail_price", "10,Jeans,$5.00", "11,,inf", "12,Socks,"],
    }
    tables = read_export(write_csv(tmp_path, **odd))
    assert all(tables[name].equals(plain[name]) for name in NEEDED)


def test_odd_values_in_parquet_columns_that_are_not_needed_are_ignored(tmp_path):
    plain = read_export(write_csv(tmp_path))["order_items"]
    folder = write_parquet(tmp_path, "order_items")
    odd = plain
    for column, values in {
        "status": pa.array([["a"], None, []]),
        "user_id": pa.array([1.5, float("nan"), None]),
        "created_at": pa.array([True, False, None]),
        "delivered_at": pa.array(["soon", "", None]).dictionary_encode(),
        "shipped_at": pa.nulls(3),
    }.items():
        odd = odd.add_column(0, column, [values])
    pq.write_table(odd, folder / "order_items.parquet")
    assert read_export(folder)["order_items"].equals(plain)


def test_gzipped_csv_parquet_and_plain_csv_may_be_mixed(tmp_path):
    plain = read_export(write_csv(tmp_path))
    users = tmp_path / "users.csv"
    (tmp_path / "users.csv.gz").write_bytes(gzip.compress(users.read_bytes()))
    users.unlink()
    pq.write_table(plain["products"], tmp_path / "products.parquet")
    (tmp_path / "products.csv").unlink()
    (tmp_path / "events.csv").write_text("not,ours\n")
    mixed = read_export(str(tmp_path))
    assert all(mixed[name].equals(plain[name]) for name in NEEDED)


TIMES = {
    "2022-07-17 13:08:00+00:00": "2022-07-17T13:08:00",
    "2022-07-17 13:08:01 UTC": "2022-07-17T13:08:01",
    "2022-07-17 13:08:02.5+00:00": "2022-07-17T13:08:02.500000",
    "2022-07-17 13:08:03.123456 UTC": "2022-07-17T13:08:03.123456",
    "2022-07-17T13:08:04Z": "2022-07-17T13:08:04",
    "2022-07-17T13:08:05.25Z": "2022-07-17T13:08:05.250000",
    "2022-07-17 13:08:06": "2022-07-17T13:08:06",
    "2022-07-17T13:08:07.123456789": "2022-07-17T13:08:07.123456",
    "2022-07-17 22:08:08+09:00": "2022-07-17T13:08:08",
    "2022-07-17 08:08:09-05:00": "2022-07-17T13:08:09",
    "2022-07-17 22:08:10+0900": "2022-07-17T13:08:10",
    "2022-07-17 22:08:11 +09:00": "2022-07-17T13:08:11",
    "2022-07-17 13:08:12.5+00": "2022-07-17T13:08:12.500000",  # DuckDB
    "2022-07-17 13:08:13 GMT": "2022-07-17T13:08:13",
    "1970-01-01 00:00:00+00:00": "1970-01-01T00:00:00",
    "9999-12-31 23:59:59.999999+00:00": "9999-12-31T23:59:59.999999",
}


def test_csv_times_may_be_written_in_many_ways_within_one_column(tmp_path):
    orders, items = [CSV["orders"][0]], [CSV["order_items"][0]]
    orders += [f"{n},1,Complete,F,{text},,1" for n, text in enumerate(TIMES, start=1)]
    items += [f"{n},1,1,10,Returned,2022-07-01 00:00:00 UTC,{text},1"
              for n, text in enumerate(["", *TIMES], start=1)]
    tables = read_export(write_csv(tmp_path, orders=orders, order_items=items))
    expected = [datetime.fromisoformat(text).replace(tzinfo=UTC) for text in TIMES.values()]
    assert tables["orders"]["created_at"].to_pylist() == expected
    assert tables["order_items"]["returned_at"].to_pylist() == [None, *expected]


@pytest.mark.parametrize(
    "kind",
    [pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("ms"), pa.timestamp("s"),
     pa.timestamp("us", tz="UTC"), pa.timestamp("ns", tz="Asia/Seoul"), pa.string()],
    ids=str,
)
def test_parquet_times_may_have_any_unit_and_zone(tmp_path, kind):
    moments = [datetime(2022, 8, 1, 10, tzinfo=UTC), datetime(2023, 2, 1, 10, tzinfo=UTC)]
    values = pa.array(moments, pa.timestamp("us", tz="UTC"))
    if pa.types.is_timestamp(kind) and kind.tz is None:  # naive means UTC
        values = values.cast(pa.timestamp("us"))
    folder = write_parquet(tmp_path, "orders", created_at=values.cast(kind))
    created = read_export(folder)["orders"]["created_at"]
    assert created.type == pa.timestamp("us", tz="UTC")
    assert created.to_pylist() == moments


def test_parquet_nanoseconds_are_cut_off(tmp_path):
    nanos = pa.array([1_700_000_000_123_456_789, 1_700_000_000_000_000_001], pa.timestamp("ns"))
    orders = read_export(write_parquet(tmp_path, "orders", created_at=nanos))["orders"]
    created = orders["created_at"]
    assert created.cast(pa.int64()).to_pylist() == [1_700_000_000_123_456, 1_700_000_000_000_000]


def test_parquet_types_of_other_writers_are_cast(tmp_path):
    folder = write_parquet(
        tmp_path,
        "order_items",
        id=pa.array([1, 2, 3], pa.int32()),
        order_id=pa.array([1.0, 1.0, 2.0]),
        returned_at=pa.nulls(3),
        sale_price=pa.array([Decimal("19.99"), None, Decimal("0.50")], pa.decimal128(9, 2)),
    )
    items = read_export(folder)["order_items"]
    assert items["id"].to_pylist() == [1, 2, 3]
    assert items["order_id"].to_pylist() == [1, 1, 2]
    assert items["returned_at"].null_count == 3
    assert items["sale_price"].to_pylist() == [19.99, None, 0.5]


def test_parquet_strings_with_a_dictionary_are_cast(tmp_path):
    values = pa.array(["Socks", None, "Socks"]).dictionary_encode()
    products = read_export(write_parquet(tmp_path, "products", category=values))["products"]
    assert products["category"].type == pa.string()
    assert products["category"].to_pylist() == ["Socks", None, "Socks"]


def test_nan_is_null(tmp_path):
    folder = write_parquet(tmp_path, "order_items", sale_price=pa.array([19.99, float("nan"), 5]))
    assert read_export(folder)["order_items"]["sale_price"].to_pylist() == [19.99, None, 5.0]


def test_integers_that_pandas_wrote_as_floats_are_read(tmp_path):
    items = read_export(write_csv(tmp_path, order_items=items_with(
        "4.0,2.0,2.0,12.0,Complete,2023-02-01 09:00:00+00:00,,")))["order_items"]
    assert items.slice(3).to_pylist() == [
        {"id": 4, "order_id": 2, "product_id": 12, "returned_at": None, "sale_price": None}
    ]


def test_byte_order_mark_and_crlf_are_read(tmp_path):
    write_csv(tmp_path)
    text = "\ufeff" + "\r\n".join(CSV["users"])
    (tmp_path / "users.csv").write_bytes(text.encode())
    assert read_export(tmp_path)["users"]["id"].to_pylist() == [1, 2]


def test_line_breaks_in_quotes_are_read_in_a_file_of_more_than_one_block(tmp_path):
    name = '"' + "line\n" * 2_000 + '"'
    lines = [CSV["users"][0]]
    lines += [f"{n},{name},20,F,Japan,Search,2024-01-01 00:00:00Z" for n in range(1, 301)]
    users = read_export(write_csv(tmp_path, users=lines))["users"]  # 3 MB; a block is 1 MB
    assert users["id"].to_pylist() == list(range(1, 301))


def test_without_users_products_and_returns_they_are_made_from_the_orders(tmp_path):
    later = orders_with("3,2,Complete,M,2023-01-01 10:00:00+00:00,,1")
    items = [line.rsplit(",", 2)[0] + f",{line.rsplit(',', 1)[1]}" for line in CSV["order_items"]]
    write_csv(tmp_path, orders=later, order_items=items)
    assert "returned_at" not in items[0]
    (tmp_path / "users.csv").unlink()
    (tmp_path / "products.csv").unlink()
    tables = read_export(tmp_path)
    assert list(tables) == list(NEEDED)
    assert sorted(tables["users"].to_pylist(), key=lambda row: row["id"]) == [
        {"id": 1, "created_at": datetime(2022, 8, 1, 10, tzinfo=UTC)},
        {"id": 2, "created_at": datetime(2023, 1, 1, 10, tzinfo=UTC)}]  # the earlier of two
    assert sorted(tables["products"]["id"].to_pylist()) == [10, 11, 12]
    assert set(tables["products"]["category"].to_pylist()) == {"all"}
    assert tables["order_items"]["returned_at"].null_count == 3
    assert tables["order_items"]["sale_price"].to_pylist() == [19.99, 5.0, 0.5]
    assert [text.split(":")[0] for text in source.filled_in(tmp_path)] == [
        "there is no users file", "there is no products file"]


@pytest.mark.parametrize("near", ["user.csv", "Users.csv", "users.xlsx"])
def test_an_optional_file_with_a_name_close_to_the_expected_one_is_not_ignored(tmp_path, near):
    (write_csv(tmp_path) / "users.csv").rename(tmp_path / near)
    assert problems(tmp_path) == [
        "table users: there is no users.csv or users.csv.gz or users.parquet; "
        f"is {near} meant? Rename or convert it"]
    assert source.filled_in(write_csv(tmp_path)) == []


# --- what is refused -----------------------------------------------------------------------


def test_missing_folder(tmp_path):
    gone = tmp_path / "gone"
    assert problems(gone) == ["there is no such folder"]
    with pytest.raises(SourceError, match="gone cannot be used.*Needed: a folder with one file"):
        read_export(gone)


def test_missing_file_names_what_is_accepted(tmp_path):
    (write_csv(tmp_path) / "orders.csv").unlink()
    (tmp_path / "orders.parquet").mkdir()  # a folder of that name is no file
    assert problems(tmp_path) == [
        "table orders: there is no orders.csv or orders.csv.gz or orders.parquet"
    ]


def test_two_files_for_one_table(tmp_path):
    (write_csv(tmp_path) / "users.parquet").write_bytes(b"")
    assert problems(tmp_path) == [
        "table users: users.csv and users.parquet are both there, keep one"
    ]


@pytest.mark.parametrize("as_parquet", [False, True])
def test_missing_columns_name_what_there_is(tmp_path, as_parquet):
    lines = ["order_id,status,returned_at,items", "1,Complete,,1"]
    write_csv(tmp_path, orders=lines)
    if as_parquet:
        (tmp_path / "orders.csv").unlink()
        names = lines[0].split(",")
        pq.write_table(pa.table({name: ["1"] for name in names}), tmp_path / "orders.parquet")
    assert problems(tmp_path) == [
        "table orders lacks columns user_id, created_at; it has order_id, status, "
        "returned_at, items"
    ]


def test_a_column_that_is_there_twice(tmp_path):
    lines = [f"{CSV['products'][0]},id", *(f"{line},1" for line in CSV["products"][1:])]
    assert problems(write_csv(tmp_path, products=lines)) == [
        "table products has column id more than once"
    ]


@pytest.mark.parametrize(
    ("table", "line", "problem"),
    [
        ("orders", "x,1,Complete,F,2022-08-01 10:00:00Z,,1",
         "order_id: INT64 expected, but data row 3 has 'x'"),
        ("orders", "3,1.5,Complete,F,2022-08-01 10:00:00Z,,1",
         "user_id: INT64 expected, but data row 3 has '1.5'"),
        ("orders", "3,1,Complete,F,17/07/2022 13:08,,1",
         "created_at: TIMESTAMP expected, but data row 3 has '17/07/2022 13:08'"),
        ("order_items", "4,1,1,10,Returned,,2022-13-01 10:00:00Z,5",
         "returned_at: TIMESTAMP expected, but data row 4 has '2022-13-01 10:00:00Z'"),
        ("order_items", "4,1,1,10,Returned,,1659348000,5",
         "returned_at: TIMESTAMP expected, but data row 4 has '1659348000'"),
        ("orders", "3,1,Complete,F,2022-08-01,,1",
         "created_at: TIMESTAMP expected, but data row 3 has '2022-08-01'"),
    ],
)
def test_csv_value_that_cannot_be_cast(tmp_path, table, line, problem):
    folder = write_csv(tmp_path, **{table: [*CSV[table], line]})
    assert problems(folder) == [f"table {table}, column {problem}"]


@pytest.mark.parametrize("text", ["$5.00", "inf", "nan", "1,5"])
def test_csv_price_that_is_no_finite_number(tmp_path, text):
    lines = items_with(f'4,2,2,12,Complete,2023-02-01 09:00:00+00:00,,"{text}"')
    assert problems(write_csv(tmp_path, order_items=lines)) == [
        f"table order_items, column sale_price: FLOAT64 expected, but data row 4 has '{text}'"
    ]


@pytest.mark.parametrize("bad", [1, 500, 777, 1000])
def test_the_first_bad_row_is_named(tmp_path, bad):
    lines = [CSV["order_items"][0]]
    for row in range(1, 1001):
        product = f"old{row}" if row in (bad, 1000) else row % 60
        lines.append(f"{row},1,1,{product},Complete,2022-08-01 09:00:00+00:00,,5")
    assert problems(write_csv(tmp_path, order_items=lines)) == [
        f"table order_items, column product_id: INT64 expected, but data row {bad} "
        f"has 'old{bad}'"
    ]


@pytest.mark.parametrize(
    ("table", "column", "values", "problem"),
    [
        ("orders", "order_id", pa.array([1.0, 2.5]),
         "INT64 expected, but data row 2 has '2.5'"),
        ("orders", "order_id", pa.array([True, False]),
         "INT64 expected, but data row 1 has 'True'"),
        ("orders", "order_id", pa.array([1, 2**63], pa.uint64()),
         "INT64 expected, but data row 2 has '9223372036854775808'"),
        ("orders", "created_at", pa.array([1, 2]),
         "TIMESTAMP expected, but data row 1 has '1'"),
        ("order_items", "returned_at", pa.array([None, "soon", None]),
         "TIMESTAMP expected, but data row 2 has 'soon'"),
        ("products", "category", pa.array([["a"], ["b"], ["c"]]),
         """STRING expected, but data row 1 has "['a']\""""),
    ],
)
def test_parquet_value_that_cannot_be_cast(tmp_path, table, column, values, problem):
    folder = write_parquet(tmp_path, table, **{column: values})
    assert problems(folder) == [f"table {table}, column {column}: {problem}"]


@pytest.mark.parametrize("as_parquet", [False, True])
def test_empty_table(tmp_path, as_parquet):
    if as_parquet:
        write_parquet(tmp_path, "users")
        users = pq.read_table(tmp_path / "users.parquet")
        pq.write_table(users.slice(0, 0), tmp_path / "users.parquet")
    else:
        write_csv(tmp_path, users=CSV["users"][:1])
    file = "users.parquet" if as_parquet else "users.csv"
    assert problems(tmp_path) == [f"table users ({file}) is empty"]


@pytest.mark.parametrize("file", ["users.csv", "users.csv.gz", "users.parquet"])
@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing of the kind\n1,2\n"])
def test_a_file_that_is_something_else(tmp_path, file, content):
    (write_csv(tmp_path) / "users.csv").unlink()
    (tmp_path / file).write_bytes(content)
    (problem,) = problems(tmp_path)
    assert problem.startswith(f"{file} cannot be read: ")


def test_a_row_with_too_few_fields(tmp_path):
    (problem,) = problems(write_csv(tmp_path, orders=orders_with("3,1,Complete")))
    assert problem.startswith("orders.csv cannot be read: ")
    assert "Expected 7 columns, got 3" in problem


@pytest.mark.parametrize(
    ("table", "line", "column"),
    [
        ("users", ",Ada,31,F,China,Search,2022-07-17 13:08:00Z", "id"),
        ("users", "9,Ada,31,F,China,Search,", "created_at"),
        ("orders", ",1,Complete,F,2022-07-17 13:08:00Z,,1", "order_id"),
        ("orders", "9,,Complete,F,2022-07-17 13:08:00Z,,1", "user_id"),
        ("orders", "9,1,Complete,F,,,1", "created_at"),
        ("order_items", ",1,1,10,Complete,2022-07-17 13:08:00Z,,1", "id"),
        ("order_items", "9,,1,10,Complete,2022-07-17 13:08:00Z,,1", "order_id"),
        ("order_items", "9,1,1,,Complete,2022-07-17 13:08:00Z,,1", "product_id"),
        ("products", ",1,Socks,Crew,Acme,1,Men", "id"),
    ],
)
def test_null_in_a_key(tmp_path, table, line, column):
    lines = [*CSV[table], line]
    assert problems(write_csv(tmp_path, **{table: lines})) == [
        f"table {table}, column {column}: 1 null, first in data row {len(lines) - 1}"
    ]


def test_null_in_a_parquet_key(tmp_path):
    folder = write_parquet(tmp_path, "orders", user_id=pa.nulls(2))
    assert problems(folder) == ["table orders, column user_id: 2 null, first in data row 1"]


def test_nan_in_a_parquet_key_is_a_null(tmp_path):
    values = pa.array([10.0, float("nan"), 12.0])
    folder = write_parquet(tmp_path, "order_items", product_id=values)
    assert problems(folder) == [
        "table order_items, column product_id: 1 null, first in data row 2"
    ]


@pytest.mark.parametrize("table", list(NEEDED))
def test_repeated_ids(tmp_path, table):
    lines = [*CSV[table], CSV[table][1], CSV[table][2], CSV[table][2]]
    first = int(CSV[table][1].split(",")[0])
    assert problems(write_csv(tmp_path, **{table: lines})) == [
        f"table {table}, column {source.KEYS[table][0]}: 2 used more than once, "
        f"for instance {first}"
    ]


def test_all_problems_are_reported_at_once_in_one_paragraph(tmp_path):
    write_csv(
        tmp_path,
        users=["age,gender", "1,F"],
        orders=orders_with("1,many,Complete,F,yesterday,,1"),
        products=CSV["products"][:1],
    )
    (tmp_path / "order_items.csv").unlink()
    found = problems(tmp_path)
    assert [problem.split(":")[0].split(";")[0] for problem in found] == [
        "table users lacks columns id, created_at",
        "table orders, column user_id",
        "table orders, column created_at",
        "table orders, column order_id",
        "table order_items",
        "table products (products.csv) is empty",
    ]
    with pytest.raises(SourceError, match="6 problems") as error:
        read_export(tmp_path)
    message = str(error.value)
    assert "\n" not in message
    assert all(problem in message for problem in found)
    assert "(6) table products" in message


# --- files that other tools write, and files that are not what they seem ---------------------


@pytest.mark.parametrize(
    ("table", "column", "values"),
    [
        ("products", "category", pa.array(["Jeans", None, "Socks"], pa.string_view())),
        ("products", "category", pa.array(["Jeans", None, "Socks"], pa.large_string())),
        ("products", "category",
         pa.array(["Jeans", None, "Socks"], pa.large_string()).dictionary_encode()),
        ("orders", "created_at", pa.array(
            ["2022-08-01 10:00:00Z", "2023-02-01T10:00:00+00:00"], pa.string_view())),
        ("orders", "user_id", pa.array(["1", "2"], pa.string_view())),
        ("orders", "user_id", pa.array([1, 2], pa.uint8())),
        ("orders", "user_id", pa.array([1, 2], pa.uint64())),
        ("orders", "user_id", pa.array([1, 2], pa.decimal128(18, 0))),
        ("orders", "user_id", pa.array([1, 2], pa.uint32()).dictionary_encode()),
        ("order_items", "sale_price", pa.array(
            [Decimal("19.99"), Decimal("5.00"), Decimal("0.50")], pa.decimal256(40, 2))),
        ("order_items", "sale_price", pa.array(
            [Decimal("19.99"), Decimal("5.00"), Decimal("0.50")], pa.decimal64(9, 2))),
    ], ids=lambda value: str(getattr(value, "type", value)))
def test_arrow_types_of_polars_and_duckdb(tmp_path, table, column, values):
    plain = read_export(write_csv(tmp_path))[table]
    assert read_export(write_parquet(tmp_path, table, **{column: values}))[table].equals(plain)


GOOD = "\n".join(CSV["users"]).encode()


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("users.csv", b"", "it is blank"),
        ("users.csv", b" \r\n\n", "it is blank"),
        ("users.parquet", b"", "it is blank"),
        ("users.csv", gzip.compress(GOOD, mtime=0),
         "it is compressed by gzip: rename it to end in .csv.gz"),
        ("users.csv.gz", gzip.compress(GOOD.decode().encode("utf-16"), mtime=0),
         "it is UTF-16: save it as UTF-8"),
        ("users.csv.gz", gzip.compress(gzip.compress(GOOD, mtime=0), mtime=0),
         "it is compressed by gzip: rename it to end in .csv.gz"),
        ("users.csv.gz", gzip.compress(GOOD, mtime=0)[:40],
         "it is cut off: copy or download it again"),
        ("users.csv", bz2.compress(GOOD), "it is compressed by bzip2: unpack it"),
        ("users.csv", lzma.compress(GOOD), "it is compressed by xz: unpack it"),
        ("users.csv", b"<!DOCTYPE html><html>",
         "it is a web page or XML, not the data: download the file itself"),
        ("users.csv", b"PAR1....", "it is a Parquet file: rename it to end in .parquet"),
        ("users.csv", b"PK\x03\x04....",
         "it is a zip archive or an Excel file: unpack it, or save it as CSV"),
        ("users.csv", GOOD.decode().encode("utf-16"), "it is UTF-16: save it as UTF-8"),
        ("users.csv", GOOD.decode().encode("utf-16-be"),
         "it has NUL bytes, as UTF-16 text has: save it as UTF-8"),
        ("users.csv", GOOD.replace(b"first_name", "prénom".encode("latin-1")),
         "it is not UTF-8: save it with that encoding"),
        *((file, b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
           "it is a Git LFS pointer, not the data: run `git lfs pull`")
          for file in ("users.csv", "users.csv.gz", "users.parquet")),
    ])
def test_a_file_that_is_not_what_its_name_says(tmp_path, file, content, reason):
    (write_csv(tmp_path) / "users.csv").unlink()
    (tmp_path / file).write_bytes(content)
    assert problems(tmp_path) == [f"{file} cannot be read: {reason}"]


def test_a_value_that_is_not_utf8(tmp_path):
    write_csv(tmp_path)
    path = tmp_path / "products.csv"
    path.write_bytes(path.read_bytes().replace(b"Socks", "Hüte".encode("latin-1")))
    assert problems(tmp_path) == [
        "products.csv cannot be read: it is not UTF-8: save it with that encoding"]


@pytest.mark.parametrize("near", ["order.csv", "Orders.csv", "orders.CSV", "orders.xlsx"])
def test_a_name_close_to_the_expected_one(tmp_path, near):
    (write_csv(tmp_path) / "orders.csv").rename(tmp_path / near)
    assert problems(tmp_path) == [
        "table orders: there is no orders.csv or orders.csv.gz or orders.parquet; "
        f"is {near} meant? Rename or convert it"]


def test_columns_separated_by_semicolons(tmp_path):
    lines = [line.replace(",", ";") for line in CSV["products"]]
    (problem,) = problems(write_csv(tmp_path, products=lines))
    assert problem.startswith("table products lacks columns id, category; it has id;cost;")
    assert problem.endswith("separated by ';': use commas")


def test_an_archive_instead_of_a_folder(tmp_path):
    path = tmp_path / "archive.zip"
    path.write_bytes(b"PK\x03\x04")
    assert problems(path) == ["it is a file, not a folder: unpack it, and name the folder"]


def test_sparks_times_are_read_at_year_9999_too(tmp_path):
    moments = [datetime(2022, 8, 1, 10, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)]
    orders = read_export(write_csv(tmp_path))["orders"].set_column(
        2, "created_at", pa.array(moments, pa.timestamp("us", "UTC")))
    (tmp_path / "orders.csv").unlink()
    pq.write_table(orders, tmp_path / "orders.parquet", use_deprecated_int96_timestamps=True)
    assert read_export(tmp_path)["orders"]["created_at"].to_pylist() == moments


def test_columns_in_another_order_and_ids_as_floats_or_text(tmp_path):
    plain = read_export(write_csv(tmp_path))
    items = plain["order_items"]
    odd = pa.table({
        "sale_price": items["sale_price"].cast(pa.string()).dictionary_encode(),
        "returned_at": items["returned_at"].cast(pa.timestamp("ns", "UTC")),
        "product_id": items["product_id"].cast(pa.float64()),
        "order_id": items["order_id"].cast(pa.uint16()),
        "id": items["id"].cast(pa.string()).cast(pa.large_string())})
    (tmp_path / "order_items.csv").unlink()
    pq.write_table(odd, tmp_path / "order_items.parquet")
    assert read_export(tmp_path)["order_items"].equals(items)


def test_ids_too_large_for_64_bits_and_half_ids_are_named(tmp_path):
    folder = write_parquet(tmp_path, "orders", user_id=pa.array([1, 2**64 - 1], pa.uint64()))
    assert problems(folder) == [
        "table orders, column user_id: INT64 expected, but data row 2 has '18446744073709551615'"]
    (tmp_path / "orders.parquet").unlink()
    folder = write_parquet(tmp_path, "users", id=pa.array([1.5, 2.0]))
    assert problems(folder) == [
        "table users, column id: INT64 expected, but data row 1 has '1.5'"]
