"""train: determinism, the one place of the input vector, and every refusal."""

import hashlib
import json
import pickle
import platform

import numpy as np
import pandas as pd
import pytest
import sklearn

FEATURES = ["orders_90d", "avg_order_value_90d", "days_since_last_order", "tenure_days"]
LABEL = "label_churn_60d"


def unpickle(folder):
    return pickle.loads((folder / "model.pkl").read_bytes())


def copied(dataset, folder, change):
    """A copy of the dataset with change(DataFrame) applied to each split."""
    folder.mkdir()
    for split in ("train", "valid", "test"):
        rows = pd.read_parquet(dataset / f"{split}.parquet")
        change(rows).to_parquet(folder / f"{split}.parquet", index=False)
    return folder


def test_help(program):
    done = program("train", "--help")
    assert done.returncode == 0 and "--model_type" in done.stdout and not done.stderr


def test_program_gives_the_same_bytes_twice(program, train_arguments, tmp_path):
    for folder, jobs in (("a", 1), ("b", 2)):
        done = program("train", *train_arguments(tmp_path / "new" / folder, n_jobs=jobs))
        assert (done.returncode, done.stderr) == (0, "")
    assert "valid ROC-AUC" in done.stdout
    same_files(tmp_path / "new" / "a", tmp_path / "new" / "b")


def test_logistic_regression_gives_the_same_bytes_twice(train, train_arguments, tmp_path):
    for folder in ("a", "b"):
        command = train_arguments(
            tmp_path / folder, model_type="logistic_regression", params="{}")
        assert train.main(command) == 0
    same_files(tmp_path / "a", tmp_path / "b")


def same_files(first, second):
    assert sorted(f.name for f in first.iterdir()) == ["model.pkl", "model_meta.json"]
    for name in ("model.pkl", "model_meta.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_meta_says_what_was_trained_on_what(model, dataset):
    meta = json.loads((model / "model_meta.json").read_text())
    labels = pd.read_parquet(dataset / "train.parquet")[LABEL]
    assert meta == {
        "model_type": "random_forest",
        "features": FEATURES,
        "label": LABEL,
        "params": {"n_estimators": 20, "max_depth": 8, "min_samples_leaf": 50},
        "seed": 7,
        "rows": 4000,
        "positive_rate": round(labels.mean(), 6),
        "trained_on": {"table": "p.d.train_dataset", "gap_days": 60,
                       "first": "2025-05-05T00:00:00+00:00", "last": "2025-09-29T00:00:00+00:00"},
        "versions": {"python": platform.python_version(), "scikit-learn": sklearn.__version__,
                     "numpy": np.__version__},
        "sha256": hashlib.sha256((model / "model.pkl").read_bytes()).hexdigest(),
    }


def test_another_seed_is_another_model(train, train_arguments, model, tmp_path):
    assert train.main(train_arguments(tmp_path, seed=8)) == 0
    assert (tmp_path / "model.pkl").read_bytes() != (model / "model.pkl").read_bytes()


def test_more_rows_than_there_are_to_draw_are_all_rows(train, train_arguments, tmp_path):
    trees = {}
    for most in (None, 10**6, 500):
        params = json.dumps({"n_estimators": 2, "max_samples": most})
        assert train.main(train_arguments(tmp_path / str(most), params=params)) == 0
        model = pickle.loads((tmp_path / str(most) / "model.pkl").read_bytes())[-1]
        trees[most] = [tree.tree_.threshold.tolist() for tree in model.estimators_]
    assert trees[None] == trees[10**6] != trees[500]


def test_order_of_columns_in_the_file_does_not_matter(
    train, train_arguments, dataset, model, tmp_path
):
    turned = copied(dataset, tmp_path / "turned", lambda rows: rows[rows.columns[::-1]])
    assert train.main(train_arguments(tmp_path / "model", input_dataset=turned)) == 0
    assert (tmp_path / "model" / "model.pkl").read_bytes() == (model / "model.pkl").read_bytes()


def test_model_picks_columns_by_name(model, dataset):
    pipeline, rows = unpickle(model), pd.read_parquet(dataset / "test.parquet")
    expected = pipeline.predict_proba(rows[FEATURES])
    shuffled = rows[rows.columns[::-1]].assign(orders_30d=99)
    assert (pipeline.predict_proba(shuffled) == expected).all()
    assert pipeline[0].transformers_[0][2] == FEATURES
    assert pipeline[-1].n_jobs == 1
    with pytest.raises(ValueError, match="tenure_days"):
        pipeline.predict_proba(rows.drop(columns="tenure_days"))


@pytest.mark.parametrize("model_type", ["random_forest", "logistic_regression"])
def test_missing_values(train, train_arguments, tmp_path, model_type):
    """A NULL is distinguished from the median, and no NULL breaks a prediction."""
    assert train.main(train_arguments(tmp_path, model_type=model_type, params="{}")) == 0
    pipeline = unpickle(tmp_path)
    vector = pipeline[0]
    row = pd.DataFrame([[0, None, 10, 400]], columns=FEATURES, dtype="float64")
    assert vector.transform(row).shape == (1, 5)  # four features, and "was it NULL" for one
    median = vector.named_transformers_["features"][0].statistics_[1]
    filled = row.assign(avg_order_value_90d=median)
    assert (vector.transform(row)[:, 4] != vector.transform(filled)[:, 4]).all()
    nothing = pd.DataFrame([[None] * 4], columns=FEATURES, dtype="float64")
    assert 0 < pipeline.predict_proba(nothing)[0, 1] < 1


@pytest.mark.parametrize("model_type", ["random_forest", "logistic_regression"])
def test_model_learns_the_direction(train, train_arguments, tmp_path, model_type):
    assert train.main(train_arguments(tmp_path, model_type=model_type, params="{}")) == 0
    rows = pd.DataFrame([[3, 50.0, 5, 100], [0, None, 60, 1400]], columns=FEATURES)
    busy, silent = unpickle(tmp_path).predict_proba(rows)[:, 1]
    assert busy < 0.4 and silent > 0.8


@pytest.mark.parametrize("count", [400, 401])
def test_the_model_is_the_one_that_all_rows_give_the_imputer(train, dataset, count):
    rows = pd.read_parquet(dataset / "train.parquet")[:count].assign(always_null=np.nan)
    features, labels = rows[[*FEATURES, "always_null"]].astype("float64"), rows[LABEL]
    assert 0 < features["avg_order_value_90d"].isna().sum() < count - 200
    ours, plain = (train.build_pipeline("random_forest", [*features], {"n_estimators": 3}, 7, 1)
                   for _ in "ab")
    train.fit(ours, features, labels)
    plain.fit(features, labels)
    one, other = (pipeline[0].named_transformers_["features"][0] for pipeline in (ours, plain))
    assert one.statistics_.tolist() == other.statistics_.tolist()
    assert one.indicator_.features_.tolist() == other.indicator_.features_.tolist()
    rows = features.iloc[:50].assign(tenure_days=np.nan)
    assert (ours.predict_proba(rows) == plain.predict_proba(rows)).all()


def test_feature_that_is_always_null_is_kept(train, train_arguments, dataset, tmp_path):
    empty = copied(dataset, tmp_path / "d", lambda rows: rows.assign(tenure_days=np.nan))
    assert train.main(train_arguments(tmp_path / "model", input_dataset=empty)) == 0
    rows = pd.read_parquet(empty / "test.parquet")[:1]
    assert unpickle(tmp_path / "model")[0].transform(rows).shape == (1, 6)  # two may be NULL


def test_without_split_json_and_valid(train, train_arguments, dataset, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.parquet").write_bytes((dataset / "train.parquet").read_bytes())
    assert train.main(train_arguments(tmp_path / "m", input_dataset=tmp_path / "d")) == 0
    assert json.loads((tmp_path / "m" / "model_meta.json").read_text())["trained_on"] is None


@pytest.mark.parametrize("change, reason", [
    (lambda rows: rows.drop(columns="tenure_days"), "has no column tenure_days"),
    (lambda rows: rows[:0], "has no rows"),
    (lambda rows: rows.assign(**{LABEL: 1}), "must have both 0 and 1"),
    (lambda rows: rows.assign(**{LABEL: np.arange(len(rows)) % 3}), "must have both 0 and 1"),
    (lambda rows: rows.assign(**{LABEL: np.where(rows.index == 3, np.nan, rows[LABEL])}), "nan"),
    (lambda rows: rows.assign(tenure_days=np.inf), "infinite values in tenure_days"),
    (lambda rows: rows.assign(tenure_days="long"), "cannot be used"),
])
def test_unusable_datasets(
    train, train_arguments, refusal, dataset, tmp_path, change, reason
):
    bad = copied(dataset, tmp_path / "d", change)
    status, line = refusal(train, *train_arguments(tmp_path / "m", input_dataset=bad))
    assert status == 1 and reason in line
    assert not (tmp_path / "m").exists()


def test_no_dataset_and_no_parquet(train, train_arguments, refusal, tmp_path):
    status, line = refusal(train, *train_arguments(tmp_path / "m", input_dataset=tmp_path))
    assert status == 1 and "train.parquet does not exist" in line
    (tmp_path / "train.parquet").write_text("not parquet")
    status, line = refusal(train, *train_arguments(tmp_path / "m", input_dataset=tmp_path))
    assert status == 1 and "cannot be used" in line


@pytest.mark.parametrize("changes, status, reason", [
    ({"params": '{"trees": 3}'}, 1, "random_forest has no trees; it has ["),
    ({"params": '{"n_estimators": -3}'}, 1, "--params: "),
    ({"params": '{"n_estimators": "many"}'}, 1, "--params: "),
    ({"params": '{"random_state": 3}'}, 1, "random_state is set by --seed"),
    ({"params": "{"}, 2, "not a JSON object"),
    ({"params": "[1]"}, 2, "not a JSON object"),
    ({"model_type": "xgboost"}, 2, "invalid choice"),
    ({"n_jobs": 0}, 2, "--n_jobs"),
    ({"seed": -1}, 2, "not a whole number"),
    ({"feature_cols": ","}, 2, "not a list of names"),
    ({"feature_cols": f"orders_90d,{LABEL}"}, 2, f"more than once: {LABEL}"),
])
def test_bad_options(train, train_arguments, refusal, tmp_path, changes, status, reason):
    ended, line = refusal(train, *train_arguments(tmp_path / "m", **changes))
    assert ended == status and reason in line


def test_process_has_no_traceback(program, train_arguments, tmp_path):
    done = program("train", *train_arguments(tmp_path / "m", input_dataset=tmp_path))
    assert done.returncode == 1
    assert done.stderr == f"train: {tmp_path}/train.parquet does not exist\n"
