"""eval: every figure against its definition, the curves, and every refusal."""

import json
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.inspection import permutation_importance

FEATURES = ["orders_90d", "avg_order_value_90d", "days_since_last_order", "tenure_days"]
LABEL = "label_churn_60d"


@pytest.fixture(scope="module")
def arguments(dataset, model):
    """arguments(folder, **changes) -> a command line of eval that works."""

    def build(output, **changes: object) -> list[str]:
        options = {"input_dataset": dataset, "input_model": model, "label_col": LABEL,
                   "output_metrics": output / "metrics.json",
                   "output_curves": output / "curves.json", **changes}
        return [part for name, value in options.items() for part in (f"--{name}", str(value))]

    return build


@pytest.fixture(scope="module")
def written(program, arguments, tmp_path_factory):
    """(metrics, curves, labels, probabilities) of the test split, by the program."""
    folder = tmp_path_factory.mktemp("eval") / "not" / "there yet"
    done = program("eval", *arguments(folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert "eval: test roc_auc 0." in done.stdout and "baseline" in done.stdout
    assert sorted(f.name for f in folder.iterdir()) == ["curves.json", "metrics.json"]
    return json.loads((folder / "metrics.json").read_text()), json.loads(
        (folder / "curves.json").read_text())


@pytest.fixture(scope="module")
def truth(dataset, model):
    """truth(split) -> (labels, probabilities), computed here."""
    pipeline = pickle.loads((model / "model.pkl").read_bytes())

    def of(split: str):
        rows = pd.read_parquet(dataset / f"{split}.parquet")
        return rows[LABEL].to_numpy(), pipeline.predict_proba(rows[FEATURES])[:, 1]

    return of


def pairwise_roc_auc(labels, scores) -> float:
    """Share of (churned, retained) pairs in the right order; a tie counts half."""
    higher = scores[labels == 1][:, None] - scores[labels == 0][None, :]
    return float((higher > 0).mean() + (higher == 0).mean() / 2)


def stepwise_pr_auc(labels, scores) -> float:
    """Precision at each distinct threshold, weighted by the recall that it adds."""
    area = recall_before = 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = labels[scores >= threshold]
        recall = taken.sum() / labels.sum()
        area += (recall - recall_before) * taken.mean()
        recall_before = recall
    return area


@pytest.mark.parametrize("split", ["test", "valid"])
def test_figures_match_their_definitions(written, truth, split):
    metrics = written[0] if split == "test" else written[0]["valid"]
    labels, scores = truth(split)
    rate = labels.mean()
    expected = {
        "rows": len(labels),
        "positive_rate": rate,
        "roc_auc": pairwise_roc_auc(labels, scores),
        "pr_auc": stepwise_pr_auc(labels, scores),
        "accuracy": np.mean([(s >= 0.5) == y for y, s in zip(labels, scores, strict=True)]),
        "log_loss": -np.mean(np.log(np.where(labels == 1, scores, 1 - scores))),
        "brier": np.mean((scores - labels) ** 2),
    }
    assert {k: metrics[k] for k in expected} == pytest.approx(expected, abs=1e-6)
    constant = np.full(len(labels), rate)
    baseline = {
        "roc_auc": pairwise_roc_auc(labels, constant), "pr_auc": stepwise_pr_auc(labels, constant),
        "accuracy": max(rate, 1 - rate), "brier": np.mean((constant - labels) ** 2),
        "log_loss": -np.mean(np.log(np.where(labels == 1, rate, 1 - rate))),
    }
    assert metrics["baseline"] == pytest.approx(baseline, abs=1e-6)


def test_keys(written):
    metrics = written[0]
    assert metrics["split"] == "test"
    assert set(metrics) - {"split", "valid", "gate"} == set(metrics["valid"])


def test_curves_run_from_end_to_end_and_match_the_areas(written):
    metrics, curves = written
    fpr, tpr = curves["roc"]["fpr"], curves["roc"]["tpr"]
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert fpr == sorted(fpr) and tpr == sorted(tpr)
    assert np.trapezoid(tpr, fpr) == pytest.approx(metrics["roc_auc"], abs=0.002)
    recall, precision = curves["pr"]["recall"], curves["pr"]["precision"]
    assert (recall[0], recall[-1]) == (0, 1) and recall == sorted(recall)
    assert precision[-1] == pytest.approx(metrics["positive_rate"], abs=1e-4)
    assert np.trapezoid(precision, recall) == pytest.approx(metrics["pr_auc"], abs=0.01)
    assert all(len(values) <= 200 for curve in ("roc", "pr") for values in curves[curve].values())


def test_calibration_and_histogram_hold_every_row(written, truth):
    curves, (labels, scores) = written[1], truth("test")
    bins = curves["calibration"]
    assert sum(bins["count"]) == len(labels) and max(bins["count"]) - min(bins["count"]) <= 1
    assert bins["mean_predicted"] == sorted(bins["mean_predicted"])
    for name, values in (("mean_predicted", scores), ("observed", labels)):
        assert np.average(bins[name], weights=bins["count"]) == pytest.approx(
            values.mean(), abs=1e-4)
    bars = curves["histogram"]
    assert len(bars["edges"]) == len(bars["label_0"]) + 1 == len(bars["label_1"]) + 1
    assert (sum(bars["label_0"]), sum(bars["label_1"])) == (
        (labels == 0).sum(), (labels == 1).sum())


def test_importance_finds_what_matters(written):
    found = written[1]["importance"]
    fall = dict(zip(found["feature"], found["mean"], strict=True))
    assert set(fall) == set(FEATURES) and found["mean"] == sorted(found["mean"], reverse=True)
    assert set(found["feature"][:2]) == {"tenure_days", "orders_90d"}
    assert fall["tenure_days"] > 0.05 and abs(fall["days_since_last_order"]) < 0.02
    assert all(std >= 0 for std in found["std"])


def test_importance_is_that_of_scikit_learn(written, model, dataset):
    """The sample holds all rows of so small a split, in their order."""
    pipeline = pickle.loads((model / "model.pkl").read_bytes())
    rows = pd.read_parquet(dataset / "test.parquet")
    found = permutation_importance(pipeline, rows[FEATURES].astype(float), rows[LABEL],
                                   scoring="roc_auc", n_repeats=5, random_state=7)
    expected = {name: (round(mean, 5), round(std, 5)) for name, mean, std in zip(
        FEATURES, found.importances_mean, found.importances_std, strict=True)}
    drawn = written[1]["importance"]
    assert drawn["rows"] == len(rows)
    assert expected == dict(zip(drawn["feature"], zip(
        drawn["mean"], drawn["std"], strict=True), strict=True))


def test_the_memory_of_importance_does_not_grow_with_the_features(evaluate):
    sizes = []

    class Model(ClassifierMixin, BaseEstimator):
        classes_ = np.array([0, 1])

        def fit(self, rows, labels):
            return self

        def predict_proba(self, rows):
            sizes.append(len(rows))
            return rows.to_numpy()[:, :2]

    rows = pd.DataFrame(np.random.default_rng(1).random((40, 30))).add_prefix("f")
    evaluate.importance(Model(), rows, np.arange(40) % 2)
    assert 0 < max(sizes) <= 40 * evaluate.IMPORTANCE_REPEATS


def test_same_bytes_twice_and_for_columns_in_another_order(
    evaluate, arguments, dataset, tmp_path
):
    turned = tmp_path / "turned"
    turned.mkdir()
    for split in ("valid", "test"):
        rows = pd.read_parquet(dataset / f"{split}.parquet")
        rows[rows.columns[::-1]].to_parquet(turned / f"{split}.parquet", index=False)
    assert evaluate.main(arguments(tmp_path / "a")) == 0
    assert evaluate.main(arguments(tmp_path / "b", input_dataset=turned)) == 0
    for name in ("metrics.json", "curves.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_curves_are_optional(evaluate, arguments, tmp_path):
    command = arguments(tmp_path)
    at = command.index("--output_curves")
    assert evaluate.main(command[:at] + command[at + 2:]) == 0
    assert [f.name for f in tmp_path.iterdir()] == ["metrics.json"]


def test_thin_keeps_the_ends_of_any_curve(evaluate):
    for curve in ([0.0, 1.0], [0.0, 0.0, 1.0, 1.0], np.sort(np.random.default_rng(0).random(5000))):
        picked = evaluate.thin(np.array(curve))
        assert picked[0] == 0 and picked[-1] == len(curve) - 1 and len(picked) <= 200
        assert (np.diff(picked) > 0).all()


def test_help(program):
    done = program("eval", "--help")
    assert done.returncode == 0 and "--output_metrics" in done.stdout and not done.stderr


def changed_model(model, folder, **changes):
    """A copy of the model with other values in its meta file."""
    shutil.copytree(model, folder)
    meta = json.loads((model / "model_meta.json").read_text())
    (folder / "model_meta.json").write_text(json.dumps({**meta, **changes}))
    return folder


def test_unusable_models(evaluate, arguments, refusal, model, tmp_path):
    def message(folder):
        status, line = refusal(evaluate, *arguments(tmp_path / "out", input_model=folder))
        assert status == 1 and not (tmp_path / "out").exists()
        return line

    assert "model_meta.json does not exist" in message(tmp_path / "absent")
    changed = changed_model(model, tmp_path / "a", sha256="0" * 64)
    assert "does not have the sha256" in message(changed)
    other = changed_model(model, tmp_path / "b", versions={"scikit-learn": "0.1"})
    assert "trained with scikit-learn 0.1" in message(other)
    assert "not what train writes" in message(changed_model(model, tmp_path / "c", versions=None))
    (other / "model_meta.json").write_text("{")
    assert "not what train writes" in message(other)
    (other / "model_meta.json").write_bytes((model / "model_meta.json").read_bytes())
    (other / "model.pkl").unlink()
    assert "model.pkl does not exist" in message(other)


@pytest.mark.parametrize("change, reason", [
    (lambda rows: rows.drop(columns="tenure_days"), "has no column tenure_days"),
    (lambda rows: rows[:0], "has no rows"),
    (lambda rows: rows.assign(**{LABEL: 0}), "must have both 0 and 1"),
])
def test_unusable_datasets(evaluate, arguments, refusal, dataset, tmp_path, change, reason):
    for split in ("valid", "test"):
        rows = change(pd.read_parquet(dataset / f"{split}.parquet"))
        rows.to_parquet(tmp_path / f"{split}.parquet", index=False)
    status, line = refusal(evaluate, *arguments(tmp_path / "out", input_dataset=tmp_path))
    assert status == 1 and reason in line


def test_bad_options(evaluate, arguments, refusal, tmp_path):
    status, line = refusal(evaluate, *arguments(tmp_path, min_roc_auc="high"))
    assert status == 2 and "invalid finite value" in line
    status, line = refusal(evaluate, *arguments(tmp_path, label_col="label_churn_90d"))
    assert status == 1 and "predicts label_churn_60d, not --label_col label_churn_90d" in line


def test_process_has_no_traceback(program, arguments, tmp_path):
    done = program("eval", *arguments(tmp_path / "out", input_dataset=tmp_path))
    assert done.returncode == 1
    assert done.stderr == f"eval: {tmp_path}/test.parquet does not exist\n"


GATE = [("min_roc_auc", 0.99, "below"), ("max_roc_auc", 0.01, "above"),
        ("positive_rate_low", 0.999, "below"), ("positive_rate_high", 0.001, "above")]


@pytest.mark.parametrize(("option", "value", "reason"), GATE)
def test_a_model_outside_the_gate_is_not_approved(
    called, evaluate, arguments, model, tmp_path, option, value, reason
):
    done = called(evaluate, *arguments(
        tmp_path, **{option: value}, output_verdict=tmp_path / "verdict"))
    assert done.returncode == 0, done.stderr
    gate = json.loads((tmp_path / "metrics.json").read_text())["gate"]
    assert gate["pass"] is False and len(gate["reasons"]) == 1 and reason in gate["reasons"][0]
    assert (tmp_path / "verdict").read_text() == "fail"
    refused = called(evaluate, "approve", "--input_model", str(model), "--input_metrics",
                      str(tmp_path / "metrics.json"), "--output_model", str(tmp_path / "out"))
    assert refused.returncode == 1 and reason in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_model_inside_the_gate_is_approved_byte_for_byte(
    called, evaluate, arguments, model, tmp_path
):
    done = called(evaluate, *arguments(
        tmp_path, min_roc_auc=0.1, max_roc_auc=0.9999, positive_rate_low=0.01,
        positive_rate_high=0.99, output_verdict=tmp_path / "verdict"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "verdict").read_text() == "pass"
    done = called(evaluate, "approve", "--input_model", str(model), "--input_metrics",
                   str(tmp_path / "metrics.json"), "--output_model", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    for name in ("model.pkl", "model_meta.json"):
        assert (tmp_path / "out" / name).read_bytes() == (model / name).read_bytes()


def test_metrics_without_a_verdict_approve_nothing(called, evaluate, model, tmp_path):
    (tmp_path / "metrics.json").write_text('{"roc_auc": 0.9}')
    done = called(evaluate, "approve", "--input_model", str(model), "--input_metrics",
                   str(tmp_path / "metrics.json"), "--output_model", str(tmp_path / "out"))
    assert done.returncode == 1 and "no verdict" in done.stderr


@pytest.mark.parametrize("content", [
    b"", b"\xff", b"[]", b"3", b'{"gate": null}', b'{"gate": []}', b'{"gate": {}}',
    b'{"gate": {"pass": "no", "reasons": []}}', b'{"gate": {"pass": false}}',
    b'{"gate": {"pass": false, "reasons": [1]}}', b"[" * 100_000])
def test_malformed_metrics_approve_nothing_and_say_so_in_one_line(
    called, evaluate, model, tmp_path, content
):
    (tmp_path / "metrics.json").write_bytes(content)
    done = called(evaluate, "approve", "--input_model", str(model), "--input_metrics",
                   str(tmp_path / "metrics.json"), "--output_model", str(tmp_path / "out"))
    assert done.returncode == 1 and not (tmp_path / "out").exists()
    assert done.stderr == f"eval: {tmp_path / 'metrics.json'} has no verdict of the gate\n"


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_gate_that_nothing_can_fail_is_refused(called, evaluate, arguments, tmp_path, value):
    done = called(evaluate, *arguments(tmp_path, min_roc_auc=value))
    assert done.returncode == 2 and "--min_roc_auc" in done.stderr


def test_a_model_that_predicts_nan_is_refused_in_one_line(
    evaluate, arguments, model, tmp_path, capsys, monkeypatch
):
    class Pipeline:
        def predict_proba(self, rows):
            return np.full((len(rows), 2), np.nan)

    meta = json.loads((model / "model_meta.json").read_text())
    monkeypatch.setattr(evaluate, "read_model", lambda folder: (Pipeline(), meta))
    assert evaluate.main(arguments(tmp_path)) == 1
    error = capsys.readouterr().err
    assert "probabilities that are not finite" in error and error.count("\n") == 1
