"""CDNOW_master.txt -> a folder for --source, on a made-up file of its form."""

import subprocess
from datetime import UTC, datetime

import pytest

from lib import source
from lib.config import ROOT
from scripts import real_orders

# As in the package: leading blanks, CR LF at the ends, two orders of a customer on one day.
MASTER = (" customer_id  date number_of_cds  dollar_value\r\n"
          " 00001 19970101  1   11.77\r\n 00002 19970112  1   12.00\r\n"
          " 00002 19970112  5   77.00\r\n 23570 19980630  2    0.00\r\n")


@pytest.fixture
def master(tmp_path):
    path = tmp_path / "CDNOW_master.txt"
    path.write_bytes(MASTER.encode())
    return path


def test_each_line_is_an_order_with_one_item_and_the_folder_can_be_a_source(
        master, tmp_path, capsys):
    assert real_orders.main([str(master), str(tmp_path / "CDNOW")]) == 0
    assert capsys.readouterr().out.endswith(
        "CDNOW: 4 orders of 3 customers, 1997-01-01 to 1998-06-30\n")
    tables = source.read_export(tmp_path / "CDNOW")
    day = datetime(1997, 1, 12, tzinfo=UTC)
    assert tables["orders"].to_pylist()[1:3] == [
        {"order_id": 2, "user_id": 2, "created_at": day},
        {"order_id": 3, "user_id": 2, "created_at": day}]
    assert tables["order_items"].select(["order_id", "sale_price"]).to_pylist() == [
        {"order_id": n, "sale_price": price}
        for n, price in enumerate([11.77, 12.0, 77.0, 0.0], start=1)]
    users = {row["id"]: row["created_at"] for row in tables["users"].to_pylist()}
    assert users.keys() == {1, 2, 23570} and users[2] == day


@pytest.mark.parametrize("line", [" 00003 19971301  1   11.77", " 00003 19970101  1", " x y z 1",
                                  " 00003 19970101  1  2.0  3.0"])
def test_a_line_that_is_no_order_ends_it_with_its_number(master, tmp_path, capsys, line):
    master.write_text(MASTER + line + "\r\n")
    assert real_orders.main([str(master), str(tmp_path / "CDNOW")]) == 1
    assert "line 6" in capsys.readouterr().err and not (tmp_path / "CDNOW").exists()


def test_a_file_without_orders_or_no_file_ends_it(master, tmp_path, capsys):
    master.write_text(MASTER.splitlines()[0])
    assert real_orders.main([str(master), str(tmp_path / "CDNOW")]) == 1
    assert real_orders.main([str(tmp_path / "gone"), str(tmp_path / "CDNOW")]) == 1
    assert "gone" in capsys.readouterr().err


def test_the_script_says_whose_the_data_are_and_git_ignores_them():
    text = (ROOT / "scripts" / "real_orders.sh").read_text(encoding="utf-8")
    assert "Bruce Hardie" in text and "not stated" in text
    done = subprocess.run(["git", "check-ignore", "-q", ".real_orders/CDNOW/orders.csv"], cwd=ROOT)
    assert done.returncode == 0
