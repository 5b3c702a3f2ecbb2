"""template: what it writes, and which input it refuses."""

import json


def test_counts_the_rows(program, dataset, tmp_path):
    output = tmp_path / "new" / "output"
    done = program("_template", "--input_dataset", dataset, "--output_dataset", output)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((output / "row_counts.json").read_text()) == {
        "test": 1500, "train": 4000, "valid": 1500}


def test_refuses_a_folder_without_data(program, tmp_path):
    given = ("_template", "--input_dataset", tmp_path, "--output_dataset", tmp_path / "output")
    done = program(*given)
    assert (done.returncode, done.stderr) == (1, f"template: {tmp_path} has no .parquet file\n")
    (tmp_path / "a.parquet").write_text("not parquet")
    done = program(*given)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert not (tmp_path / "output").exists()


def test_help(program):
    assert program("_template", "--help").returncode == 0
    done = program("_template", "--input_dataset", "x")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
