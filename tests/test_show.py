"""Tables, SQL excerpts and requests: what a reader sees with and without a style sheet."""

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
import requests
from google.api_core.exceptions import NotFound

from lib import config, feature_store, show
from tests.conftest import SMALL

FRAME = pd.DataFrame({
    "customer_id": ["7", "12"], "orders": [1, 12345], "probability": [0.91234, 0.5],
    "average": [np.nan, 51.5], "at": pd.to_datetime(["2026-07-03", None], utc=True)})


def test_a_table_formats_numbers_dates_and_nulls_and_hides_the_index():
    shown = show.table(FRAME, caption="customers", digits=3)
    assert repr(shown) == (
        "customers\n"
        "customer_id  orders  probability  average  at\n"
        "7                 1        0.912     NULL  2026-07-03\n"
        "12           12,345        0.500   51.500  NULL")
    cells = re.findall(r"<td[^>]*>(.*?)</td>", shown._repr_html_())
    assert cells == ["7", "1", "0.912", "NULL", "2026-07-03", "12", "12,345", "0.500", "51.500",
                     "NULL"]
    assert "<caption>customers</caption>" in shown.html and "<style" not in shown.html
    assert 'align="right"' in shown.html and shown._repr_markdown_() is None


def test_a_table_shows_a_named_index_and_escapes_html():
    frame = pd.DataFrame({"value": [0.0, 107.25]}, index=["a<b", "c"])
    assert repr(show.table(frame, index=True)) == "      value\na<b       0\nc    107.25"
    assert "a&lt;b" in show.table(frame, index=True).html


def test_a_table_takes_dicts_and_a_choice_of_columns():
    rows = [{"name": "orders_90d", "unit": "orders", "type": "INT64"}]
    assert repr(show.table(rows, columns=["unit", "name"])) == "unit    name\norders  orders_90d"


def test_mixed_numbers_and_nulls_in_one_column_are_numbers():
    frame = pd.DataFrame({"online": [None, 3.0, 0.125]}, dtype=object)
    assert repr(show.table(frame)) == "online\n  NULL\n     3\n 0.125"


def test_what_was_left_out_is_a_sentence():
    assert "left out" in repr(show.table(None)) and show.table(None)._repr_html_() is None


EXCERPTS = [  # as the notebooks show them, and words that each must hold
    ("02_build_features", ["orders_in_window"], ["interval 90 day", "group by"]),
    ("04_build_train", ["newest_snapshot"], ["last_value(snapshot_at ignore nulls) over",
                                              "unbounded preceding"]),
    ("04_build_train", ["from"], ["from newest_snapshot", "left join features"]),
    ("04_build_train_naive", ["latest", "from"], ["qualify row_number()", "left join latest"]),
]


@pytest.mark.parametrize(("file", "parts", "words"), EXCERPTS)
def test_an_excerpt_is_part_of_the_file_and_at_most_16_lines(file, parts, words):
    shown = show.sql(file, *parts)
    lines = repr(shown).splitlines()
    assert lines[0] == f"-- sql/{file}.sql" and 5 <= len(lines) <= 16
    text = (show.ROOT / "sql" / f"{file}.sql").read_text()
    assert set(lines[1:]) <= set(text.replace(";\n", "\n").splitlines())
    assert all(word in repr(shown) for word in words)
    assert f"```sql\n{shown.text}\n```" in shown._repr_markdown_()


def test_a_part_that_the_file_lacks_is_named():
    with pytest.raises(ValueError, match="sql/04_build_train.sql has no part 'oldest'"):
        show.sql("04_build_train", "oldest")


# -- requests --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mine(cloud):
    settings = config.load(target="local", env="dev", overrides={**SMALL, "app": "show"})
    return dataclasses.replace(cloud, settings=settings)


def test_the_request_shown_is_the_one_that_the_client_sends(mine):
    request = repr(show.create(feature_store.group_name(mine), feature_store.group_message(mine)))
    original = requests.Session.send
    with show.Calls() as calls, pytest.raises(NotFound, match="features_customer"):
        feature_store.create_group(mine)  # refused, for want of the table; sent all the same
    assert requests.Session.send is original
    sent = repr(calls).split("\n\n")
    posted = next(part for part in sent if part.startswith("POST "))
    line, body = request.split("\n", 1)
    assert line.startswith("POST …/featureGroups?featureGroupId=show_dev_customer")
    assert posted.startswith("POST …/featureGroups\n")
    assert json.loads(posted.split("\n", 1)[1]) == json.loads(body)
    assert json.loads(body)["bigQuery"]["dense"] is True


def test_calls_show_each_request_with_its_answer(mine):
    with show.Calls() as calls, pytest.raises(feature_store.EntityNotServed):
        feature_store.fetch(mine, "7")
    fetch, refused, get, missing = repr(calls).split("\n\n")[:4]
    assert fetch.startswith(
        "gRPC FetchFeatureValues …/featureOnlineStores/show_dev_store/featureViews/")
    assert '"key": "7"' in fetch and refused.startswith("NOT_FOUND\n")
    assert get.startswith("GET …/featureOnlineStores/show_dev_store") and missing.startswith("404 ")
    assert "\n`gRPC FetchFeatureValues …/" in calls._repr_markdown_()
    assert type(mine.online).fetch_feature_values.__name__ == "fetch_feature_values"


@pytest.mark.parametrize("value", [
    {"a": 1}, [], {"short": list(range(100))}, {"a": {"b": ["x" * 60, "y" * 60]}},
    {f"feature_{n}": n / 3 for n in range(11)}, [{"name": "n" * 40, "value": {"v": "w" * 50}}] * 3,
])
def test_json_stays_json_and_within_the_line(value):
    with show.Calls() as calls:
        calls.lines.append(("POST x", value))
    body = repr(calls).split("\n", 1)[1]
    assert json.loads(body) == value
    assert max(map(len, body.splitlines())) <= 100
