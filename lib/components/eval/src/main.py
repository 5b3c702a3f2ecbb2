"""eval: model + dataset -> metrics.json, and curves.json for the charts; or approve a model.

metrics.json has the metrics of the test split, a baseline (the best constant: the split's positive
rate for every row), and the same for the valid split. Probabilities are of label 1; the threshold
of accuracy is 0.5. The same input gives the same files.

The gate: with --min_roc_auc, --max_roc_auc, --positive_rate_low or --positive_rate_high,
metrics.json also says whether the model passes, or why not, and --output_verdict gets one word
for a pipeline's condition: pass or fail.

With `approve` as the first argument: copy a model whose metrics.json passed the gate to
--output_model, refuse any other. Only models that it wrote are registered.

Exit status: 0 done, 1 the input cannot be used, 2 a bad command line.
"""

import argparse
import hashlib
import json
import math
import pickle
import shutil
import sys
from pathlib import Path

POINTS = 200  # of a curve, at most
BINS = 10  # of the calibration curve, with equally many rows
BARS = 50  # of the histogram
IMPORTANCE_ROWS, IMPORTANCE_REPEATS = 10_000, 5
SEED = 7  # of the rows and permutations behind the feature importance


class InputError(ValueError):
    """The input cannot be used; the message is one line for the user."""


class Parser(argparse.ArgumentParser):
    """argparse, but an error message has one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def finite(text: str) -> float:
    """A limit of the gate: every model would pass one that is NaN."""
    if not math.isfinite(float(text)):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return float(text)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="eval", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input_dataset", required=True, type=Path,
                        help="folder with test.parquet and valid.parquet")
    parser.add_argument("--input_model", required=True, type=Path,
                        help="folder with model.pkl and model_meta.json")
    parser.add_argument("--label_col", required=True, help="column of 0 and 1")
    parser.add_argument("--min_roc_auc", type=finite, help="gate: at least this on test")
    parser.add_argument("--max_roc_auc", type=finite,
                        help="gate: at most this; a higher value means a leak")
    parser.add_argument("--positive_rate_low", type=finite, help="gate: of test, at least")
    parser.add_argument("--positive_rate_high", type=finite, help="gate: of test, at most")
    parser.add_argument("--output_metrics", required=True, type=Path, help="metrics.json to write")
    parser.add_argument("--output_verdict", type=Path, help="file for one word: pass or fail")
    parser.add_argument("--output_curves", type=Path, help="curves.json to write, if given")
    return parser.parse_args(argv)


def parse_approval(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="eval approve", allow_abbrev=False)
    parser.add_argument("--input_model", required=True, type=Path, help="what train wrote")
    parser.add_argument("--input_metrics", required=True, type=Path, help="its metrics.json")
    parser.add_argument("--output_model", required=True, type=Path, help="folder to write")
    return parser.parse_args(argv)


# --- reading ----------------------------------------------------------------------------------


def read_model(folder: Path):
    """(Pipeline, model_meta.json as a dict).

    Raises:
        InputError: a file is missing or damaged, or another scikit-learn wrote the model.
    """
    import sklearn

    try:
        meta = json.loads((folder / "model_meta.json").read_text(encoding="utf-8"))
        digest, version = meta["sha256"], meta["versions"]["scikit-learn"]
        content = (folder / "model.pkl").read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} does not exist") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{folder / 'model_meta.json'} is not what train writes") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise InputError(f"{folder / 'model.pkl'} does not have the sha256 in model_meta.json")
    if version != sklearn.__version__:
        raise InputError(f"the model was trained with scikit-learn {version}, "
                         f"here is {sklearn.__version__}")
    return pickle.loads(content), meta


def read_split(dataset: Path, split: str, features: list[str], label: str):
    """One split: (DataFrame of float64 features, array of int 0/1 labels).

    Raises:
        InputError: no such file or column, no rows, a value or label that cannot be used.
    """
    import numpy as np
    import pyarrow.parquet as pq

    path = dataset / f"{split}.parquet"
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    try:
        with pq.ParquetFile(path) as file:  # of these columns it reads those that exist
            rows = file.read(columns=[*features, label]).to_pandas().astype("float64")
    except (ValueError, TypeError) as error:  # not a parquet file, or text in a column
        raise InputError(f"{path} cannot be used: {' '.join(str(error).split())}") from None
    missing = [name for name in (*features, label) if name not in rows]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)}")
    if rows.empty:
        raise InputError(f"{path} has no rows")
    infinite = [name for name in features if np.isinf(rows[name]).any()]
    if infinite:
        raise InputError(f"{path}: infinite values in {', '.join(infinite)}")
    found = set(rows[label].unique().tolist())
    if found != {0.0, 1.0}:
        raise InputError(f"{path}: label {label} must have both 0 and 1 and nothing else, "
                         f"but has {sorted(found, key=str)[:5]}")
    return rows[features], rows[label].to_numpy().astype("int64")


# --- metrics ----------------------------------------------------------------------------------


def measure(labels, probabilities) -> dict:
    """The metrics of one split.

    Args:
        labels: int array of 0 and 1, both present.
        probabilities: of label 1, float array of the same length.
    """
    import numpy as np
    from sklearn import metrics

    rate = float(labels.mean())
    return {
        "rows": len(labels),
        "positive_rate": rounded(rate),
        "roc_auc": rounded(metrics.roc_auc_score(labels, probabilities)),
        "pr_auc": rounded(metrics.average_precision_score(labels, probabilities)),
        "accuracy": rounded(((probabilities >= 0.5) == labels).mean()),
        "log_loss": rounded(metrics.log_loss(labels, probabilities)),
        "brier": rounded(((probabilities - labels) ** 2).mean()),
        "baseline": {
            "roc_auc": 0.5,
            "pr_auc": rounded(rate),
            "accuracy": rounded(max(rate, 1 - rate)),
            "log_loss": rounded(-rate * np.log(rate) - (1 - rate) * np.log(1 - rate)),
            "brier": rounded(rate * (1 - rate)),
        },
    }


def draw(pipeline, rows, labels, probabilities) -> dict:
    """The series of curves.json. rows: the DataFrame of features; the rest as in `measure`."""
    from sklearn import metrics

    false_rate, true_rate, _ = metrics.roc_curve(labels, probabilities)
    precision, recall, _ = metrics.precision_recall_curve(labels, probabilities)
    precision, recall = precision[::-1], recall[::-1]  # from recall 0 up
    on_roc, on_pr = thin(false_rate + true_rate), thin(recall)
    return {
        "roc": {"fpr": series(false_rate[on_roc]), "tpr": series(true_rate[on_roc])},
        "pr": {"recall": series(recall[on_pr]), "precision": series(precision[on_pr])},
        "calibration": calibrate(labels, probabilities),
        "histogram": count_bars(labels, probabilities),
        "importance": importance(pipeline, rows, labels),
    }


def thin(ascending):
    """Indices of at most POINTS evenly spaced points of a curve, with the first and the last."""
    import numpy as np

    grid = np.linspace(ascending[0], ascending[-1], POINTS - 1)
    picked = np.searchsorted(ascending, grid[:-1])
    return np.unique(np.append(picked, [0, len(ascending) - 1]))


def calibrate(labels, probabilities) -> dict:
    """Predicted and observed rate in bins with equal numbers of rows, lowest predictions first."""
    import numpy as np

    order = np.argsort(probabilities, kind="stable")
    bins = [part for part in np.array_split(order, BINS) if len(part)]
    return {
        "mean_predicted": series([probabilities[part].mean() for part in bins]),
        "observed": series([labels[part].mean() for part in bins]),
        "count": [len(part) for part in bins],
    }


def count_bars(labels, probabilities) -> dict:
    """Rows per class in BARS equal bins over [0, 1]; `edges` has one more entry than the counts."""
    import numpy as np

    counts = {value: np.histogram(probabilities[labels == value], bins=BARS, range=(0, 1))
              for value in (0, 1)}
    return {"edges": series(counts[0][1]), "label_0": counts[0][0].tolist(),
            "label_1": counts[1][0].tolist()}


def importance(pipeline, rows, labels) -> dict:
    """Decrease of the ROC-AUC when one feature is shuffled: mean and std over repeats.

    On at most IMPORTANCE_ROWS rows, a stratified sample of both classes. Largest first.
    """
    import numpy as np
    from sklearn.inspection import permutation_importance

    generator = np.random.default_rng(SEED)
    share = min(1, IMPORTANCE_ROWS / len(labels))
    picked = np.sort(np.concatenate([
        generator.choice(where, size=max(1, int(len(where) * share)), replace=False)
        for where in (np.flatnonzero(labels == value) for value in (0, 1))]))
    result = permutation_importance(
        pipeline, rows.iloc[picked], labels[picked], scoring="roc_auc",
        n_repeats=IMPORTANCE_REPEATS, random_state=SEED)
    order = np.argsort(-result.importances_mean, kind="stable")
    return {
        "feature": [rows.columns[i] for i in order],
        "mean": series(result.importances_mean[order]),
        "std": series(result.importances_std[order]),
        "rows": len(picked), "repeats": IMPORTANCE_REPEATS, "unit": "fall of ROC-AUC",
    }


def rounded(value: float) -> float:
    return round(float(value), 6)


def series(values) -> list[float]:
    """Rounded to five digits, more than a chart can show."""
    return [round(float(value), 5) for value in values]


# --- the gate ---------------------------------------------------------------------------------


def judge(metrics: dict, options: argparse.Namespace) -> dict:
    """{"pass": bool, "reasons": [why not]}: the metrics compared with the gate's options."""
    limits = [
        ("roc_auc", options.min_roc_auc, options.max_roc_auc),
        ("positive_rate", options.positive_rate_low, options.positive_rate_high),
    ]
    reasons = []
    for name, low, high in limits:
        if low is not None and metrics[name] < low:
            reasons.append(f"{name} {metrics[name]:.4f} is below {low:g}")
        if high is not None and metrics[name] > high:
            reasons.append(f"{name} {metrics[name]:.4f} is above {high:g}")
    return {"pass": not reasons, "reasons": reasons}


def approve(options: argparse.Namespace) -> None:
    """Copy the model if its metrics.json says that it passed, else raise InputError."""
    try:
        verdict = json.loads(options.input_metrics.read_text(encoding="utf-8"))["gate"]
        passed, reasons = verdict["pass"], "; ".join(verdict["reasons"])
    except (ValueError, KeyError, TypeError, RecursionError):
        passed = None
    if not isinstance(passed, bool):
        raise InputError(f"{options.input_metrics} has no verdict of the gate")
    if not passed:
        raise InputError(f"the model did not pass the gate: {reasons}")
    options.output_model.mkdir(parents=True, exist_ok=True)
    for name in ("model.pkl", "model_meta.json"):
        shutil.copyfile(options.input_model / name, options.output_model / name)
    print(f"eval: approved the model in {options.input_model}")


# --- the program --------------------------------------------------------------------------------


def write_json(path: Path, content: dict) -> None:
    """Write a file so that it is complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def predict(pipeline, rows):
    """Probabilities of label 1; raises InputError if one is no number."""
    import numpy as np

    probabilities = pipeline.predict_proba(rows)[:, 1]
    if not np.isfinite(probabilities).all():
        raise InputError("the model predicts probabilities that are not finite")
    return probabilities


def run(options: argparse.Namespace) -> None:
    """Read, measure, write. Raises InputError."""
    pipeline, meta = read_model(options.input_model)
    if meta["label"] != options.label_col:
        raise InputError(f"the model predicts {meta['label']}, not --label_col {options.label_col}")
    features, splits = meta["features"], {}
    for split in ("test", "valid"):
        rows, labels = read_split(options.input_dataset, split, features, options.label_col)
        splits[split] = rows, labels, predict(pipeline, rows)
    metrics = {"split": "test", **measure(*splits["test"][1:]),
               "valid": measure(*splits["valid"][1:])}
    metrics["gate"] = judge(metrics, options)
    write_json(options.output_metrics, metrics)
    if options.output_verdict:
        options.output_verdict.parent.mkdir(parents=True, exist_ok=True)
        options.output_verdict.write_text("pass" if metrics["gate"]["pass"] else "fail")
    for name in ("roc_auc", "pr_auc", "accuracy"):
        print(f"eval: test {name} {metrics[name]:.4f} "
              f"(baseline {metrics['baseline'][name]:.4f})")
    print(f"eval: test positive_rate {metrics['positive_rate']:.4f} "
          f"on {metrics['rows']} rows", flush=True)
    if options.output_curves:
        curves = {"split": "test", **draw(pipeline, *splits["test"])}
        write_json(options.output_curves, curves)


def explain(error: Exception) -> str:
    """The error in a line, with what to change if it is the user of the container."""
    if isinstance(error, PermissionError) and "/gcs/" in str(error):
        return (f"{error}: the user of this container may not write below /gcs; delete the USER "
                "line of its Dockerfile and build the image again")
    return str(error)


def main(argv: list[str] | None = None) -> int:
    """The program; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv[:1] == ["approve"]:
            approve(parse_approval(argv[1:]))
        else:
            run(parse_arguments(argv))
    except (InputError, OSError) as error:
        print(f"eval: {explain(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
