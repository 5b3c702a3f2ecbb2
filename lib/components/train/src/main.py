"""train: train.parquet -> model.pkl and model_meta.json.

model.pkl is a scikit-learn Pipeline that takes a DataFrame of named columns. Its first step
picks the features by name, in the order of model_meta.json, and fills missing values: this is
the one place that defines the model's input vector, in training, in evaluation and in serving
(which computes the same numbers faster, if they are equal at its start: lib/serving). The same
input, parameters and seed give the same bytes.

Exit status: 0 done, 1 the input cannot be used, 2 a bad command line.
"""

import argparse
import hashlib
import json
import pickle
import platform
import sys
import time
from pathlib import Path

MODELS = {
    # A compromise with time; README.md has the effect of more trees.
    "random_forest": {"n_estimators": 100, "max_depth": 8, "min_samples_leaf": 50},
    "logistic_regression": {"C": 1.0, "max_iter": 1000},
}
OWN_OPTIONS = {"random_state": "--seed", "n_jobs": "--n_jobs"}


class InputError(ValueError):
    """The input cannot be used; the message is one line for the user."""


class Parser(argparse.ArgumentParser):
    """argparse, but an error message has one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="train", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input_dataset", required=True, type=Path,
                        help="folder with train.parquet (valid.parquet, split.json: optional)")
    parser.add_argument("--output_model", required=True, type=Path, help="folder to write")
    parser.add_argument("--model_type", required=True, choices=sorted(MODELS))
    parser.add_argument("--label_col", required=True, help="column of 0 and 1")
    parser.add_argument("--feature_cols", required=True, type=names, help="a,b,c")
    parser.add_argument("--params", type=json_object, default={},
                        help="JSON merged into the defaults: " + json.dumps(MODELS))
    parser.add_argument("--seed", type=whole, default=7)
    parser.add_argument("--n_jobs", type=whole, default=2, help="cores to train on (default 2)")
    options = parser.parse_args(argv)
    columns = [options.label_col, *options.feature_cols]
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        parser.error(f"named more than once: {', '.join(twice)}")
    if options.n_jobs < 1:
        parser.error("--n_jobs must be 1 or more")
    return options


def names(text: str) -> list[str]:
    """'a,b' -> ['a', 'b']."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of names a,b,c")
    return parts


def whole(text: str) -> int:
    """'7' or '7.0' (pipelines pass numbers as floats) -> 7, not negative."""
    try:
        number = float(text)
    except ValueError:
        number = -1
    if number < 0 or number != int(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(number)


def json_object(text: str) -> dict:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return value


def read_split(dataset: Path, split: str, features: list[str], label: str):
    """One split: (DataFrame of float64 features, Series of int 0/1 labels).

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
    return rows[features], rows[label].astype("int64")


def build_pipeline(model_type: str, features: list[str], params: dict, seed: int, n_jobs: int):
    """The untrained Pipeline: named columns -> vector -> probability.

    Raises:
        InputError: a parameter that this model does not have.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    # A NULL becomes the median; for a feature that had NULLs in training, an indicator column
    # marks it: "no order, so no average" must not look like an average order.
    steps = [("fill", SimpleImputer(
        strategy="median", add_indicator=True, keep_empty_features=True))]
    if model_type == "random_forest":
        model = RandomForestClassifier(random_state=seed, n_jobs=n_jobs)
    else:
        steps.append(("scale", StandardScaler()))
        model = LogisticRegression(random_state=seed)
    known = set(model.get_params()) - set(OWN_OPTIONS)
    for name in params:
        if name in OWN_OPTIONS:
            raise InputError(f"--params: {name} is set by {OWN_OPTIONS[name]}")
        if name not in known:
            raise InputError(f"--params: {model_type} has no {name}; it has {sorted(known)}")
    model.set_params(**params)
    vector = ColumnTransformer([("features", Pipeline(steps), features)], remainder="drop")
    return Pipeline([("vector", vector), ("model", model)])


def fit(pipeline, rows, labels) -> None:
    """Train in place. Raises InputError for parameter values that the model rejects."""
    vector, model = pipeline[0], pipeline[-1]
    try:
        if getattr(model, "max_samples", None):  # scikit-learn refuses more than there are
            model.set_params(max_samples=min(model.max_samples, len(rows)))
        if "scale" in vector.transformers[0][1].named_steps:
            pipeline.fit(rows, labels)
        else:  # the same in a fifth of the time: SimpleImputer sorts every column with a mask
            vector.fit(two_like(rows))
            model.fit(vector.transform(rows), labels)
    except (ValueError, TypeError) as error:  # the rows are checked, so it is --params
        raise InputError(f"--params: {' '.join(str(error).split())}") from None
    if "n_jobs" in model.get_params():
        # Starting threads takes longer than one customer's prediction; and the bytes must not
        # depend on the machine.
        model.set_params(n_jobs=1)


def two_like(rows):
    """Two rows with the medians of `rows` and with NULLs in the same columns: all that the imputer
    learns from them."""
    import pandas as pd

    medians = rows.median()
    return pd.DataFrame([medians, medians.where(rows.notna().all())])


def describe(options: argparse.Namespace, params: dict, labels, digest: str) -> dict:
    """model_meta.json, without a time: the same training gives the same bytes."""
    import numpy
    import sklearn

    try:
        split = json.loads((options.input_dataset / "split.json").read_text(encoding="utf-8"))
        trained = split["splits"]["train"]
        source = {"table": split["table"], "first": trained["first"], "last": trained["last"],
                  "gap_days": split["gap_days"]}
    except (OSError, ValueError, KeyError, TypeError):
        source = None  # not a dataset of data_load
    return {
        "model_type": options.model_type,
        "features": options.feature_cols,
        "label": options.label_col,
        "params": params,
        "seed": options.seed,
        "rows": len(labels),
        "positive_rate": round(float(labels.mean()), 6),
        "trained_on": source,
        "versions": {"python": platform.python_version(), "scikit-learn": sklearn.__version__,
                     "numpy": numpy.__version__},
        "sha256": digest,
    }


def write(folder: Path, name: str, content: bytes) -> None:
    """Write a file so that it is complete or absent."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}.tmp"
    temporary.write_bytes(content)
    temporary.replace(folder / name)


def run(options: argparse.Namespace) -> None:
    """Read, train, write. Raises InputError."""
    rows, labels = read_split(
        options.input_dataset, "train", options.feature_cols, options.label_col)
    params = {**MODELS[options.model_type], **options.params}
    pipeline = build_pipeline(
        options.model_type, options.feature_cols, params, options.seed, options.n_jobs)
    began = time.perf_counter()
    fit(pipeline, rows, labels)
    print(f"train: {options.model_type} on {len(rows)} rows and {rows.shape[1]} features "
          f"in {time.perf_counter() - began:.1f} s, positive rate {labels.mean():.4f}")

    content = pickle.dumps(pipeline, protocol=5)
    meta = describe(options, params, labels, hashlib.sha256(content).hexdigest())
    # model_meta.json last: it has the checksum of the model beside it.
    write(options.output_model, "model.pkl", content)
    write(options.output_model, "model_meta.json",
          (json.dumps(meta, indent=2) + "\n").encode("utf-8"))
    print(f"train: model.pkl {len(content)} bytes, sha256 {meta['sha256'][:16]}")
    report_valid(pipeline, options)


def report_valid(pipeline, options: argparse.Namespace) -> None:
    """Print the ROC-AUC on valid.parquet, if it exists; nothing depends on it."""
    from sklearn.metrics import roc_auc_score

    if (options.input_dataset / "valid.parquet").is_file():
        rows, labels = read_split(
            options.input_dataset, "valid", options.feature_cols, options.label_col)
        auc = roc_auc_score(labels, pipeline.predict_proba(rows)[:, 1])
        print(f"train: valid ROC-AUC {auc:.4f} on {len(rows)} rows")


def explain(error: Exception) -> str:
    """The error in a line, with what to change if it is the user of the container."""
    if isinstance(error, PermissionError) and "/gcs/" in str(error):
        return (f"{error}: the user of this container may not write below /gcs; delete the USER "
                "line of its Dockerfile and build the image again")
    return str(error)


def main(argv: list[str] | None = None) -> int:
    """The program; returns the exit status."""
    options = parse_arguments(argv)
    try:
        run(options)
    except (InputError, OSError) as error:
        print(f"train: {explain(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
