"""scripts/bench.py: the join by a package that the project does not install, in its own Python.

    python bench_other.py polars|feast FOLDER '["label column", "feature", ...]'

Reads labels.parquet and features.parquet in FOLDER, writes result.parquet, and prints the user CPU
seconds of the join itself: without the import and the reading, but with the order that it needs.
"""

import json
import os
import sys
from pathlib import Path


def join_polars(folder: Path, names: list[str]) -> float:
    import polars

    labels = polars.read_parquet(folder / "labels.parquet")
    features = polars.read_parquet(folder / "features.parquet")
    began = os.times().user
    joined = labels.sort("label_timestamp").join_asof(
        features.sort("feature_timestamp"), left_on="label_timestamp",
        right_on="feature_timestamp", by="customer_id", coalesce=False)
    seconds = os.times().user - began
    joined.write_parquet(folder / "result.parquet")
    return seconds


def join_feast(folder: Path, names: list[str]) -> float:
    import pandas
    from feast import Entity, FeatureStore, FeatureView, FileSource, RepoConfig, ValueType

    # Feast returns no time of the features: it is one more of them.
    features = pandas.read_parquet(folder / "features.parquet")
    features.assign(taken_at=features["feature_timestamp"]).to_parquet(folder / "feast.parquet")
    source = FileSource(path=str(folder / "feast.parquet"), timestamp_field="feature_timestamp")
    customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.STRING)
    view = FeatureView(name="features", entities=[customer], source=source)  # no ttl: any age
    store = FeatureStore(config=RepoConfig(
        project="bench", provider="local", registry=str(folder / "registry.db"),
        entity_key_serialization_version=3))
    store.apply([customer, view])
    labels = pandas.read_parquet(folder / "labels.parquet")
    entities = labels.rename(columns={"label_timestamp": "event_timestamp"})
    began = os.times().user
    joined = store.get_historical_features(
        entities, [f"features:{name}" for name in (*names[1:], "taken_at")]).to_df()
    seconds = os.times().user - began
    # Feast leaves out the labels of customers without features at their time; the join keeps them.
    keys = ["customer_id", "label_timestamp"]
    joined = joined.rename(columns={"event_timestamp": "label_timestamp",
                                    "taken_at": "feature_timestamp"}).drop(columns=names[0])
    labels[[*keys, names[0]]].merge(joined, how="left", on=keys).to_parquet(
        folder / "result.parquet")
    return seconds


if __name__ == "__main__":
    join = {"polars": join_polars, "feast": join_feast}[sys.argv[1]]
    print(join(Path(sys.argv[2]), json.loads(sys.argv[3])))
