"""Lineage: read from live resources of an app of its own, and drawn."""

import dataclasses

import pytest
from google.cloud import aiplatform_v1 as vertex

from lib import config, endpoint, feature_store, lineage, model_registry, warehouse
from lib.lineage import Lineage, LineageNode
from lib.stages import short
from lib.training.training import Training
from tests.conftest import SMALL

CHAIN = [("sources", "features", ""), ("sources", "labels", ""), ("labels", "train", ""),
         ("features", "train", "point-in-time"), ("features", "group", ""), ("group", "view", ""),
         ("view", "store", ""), ("train", "model", ""), ("model", "endpoint", "")]
NODES = {kind: LineageNode(f"app_{kind}", ("1,000 rows",)) for kind in lineage.BOXES}


def test_lineage_is_read_from_the_resources(cloud, monkeypatch):
    settings = config.load(target="local", env="dev", overrides={
        **SMALL, "app": "lineage", "snapshots": {"history_days": 126, "sample_percent": 20}})
    mine = dataclasses.replace(cloud, settings=settings)
    assert lineage.read(mine).nodes == {}
    warehouse.create_dataset(mine)
    for file in ("01_prepare_bq", "02_build_features", "03_build_labels_churn", "04_build_train"):
        warehouse.build(mine, file)
    for step in (feature_store.create_group, feature_store.register_features,
                 feature_store.create_online_store, feature_store.create_view):
        step(mine)
    early = lineage.read(mine)
    assert early.nodes["store"].facts[-1] == "never synced"
    assert lineage.finding(early).endswith("not created yet: Model Registry, Endpoint")
    running = vertex.FeatureViewSync(sync_summary={"row_synced": 5})  # it has no end yet
    with monkeypatch.context() as patch:
        patch.setattr(feature_store, "list_syncs", lambda cloud: [running])
        assert lineage.read(mine).nodes["store"].facts[-1] == "never synced"
    rows = feature_store.sync(mine).figures["rows"]
    model_registry.upload(mine, Training(
        f"gs://{settings.names.bucket}/model", f"{mine.parent}/pipelineJobs/some-job",
        states={}, split={}, meta={"sha256": "0" * 64, "model_type": "random_forest"},
        metrics={"roc_auc": 0.7, "pr_auc": 0.9, "split": "test"}, curves={},
        model_uri=""))
    endpoint.create(mine)
    found = lineage.read(mine)
    assert set(found.nodes) == set(lineage.BOXES)
    # Nothing is deployed, so nothing leads to the endpoint.
    assert set(found.edges) == set(CHAIN) - {("model", "endpoint", "")}
    assert found.nodes["group"].facts == ("11 features", "dense: newest row")
    assert f"{rows:,} rows synced" in found.nodes["store"].facts
    assert found.nodes["model"].facts[0] == "version 1, random_forest"
    assert found.nodes["endpoint"].facts[0] == "serves version none"
    assert lineage.finding(found) == "Not traced back to features_customer: Endpoint"
    assert lineage.lineage(found)._repr_png_() == lineage.lineage(lineage.read(mine))._repr_png_()


def test_the_title_states_what_the_arrows_show():
    whole = Lineage(NODES, CHAIN, "p, r")
    assert lineage.finding(whole) == (
        "The model and the values it gets both come from app_features")
    assert whole.origins("endpoint") == {"sources", "features", "labels", "train", "model"}
    cut = Lineage(NODES, [e for e in CHAIN if e[:2] != ("features", "group")], "p, r")
    assert lineage.finding(cut) == "Not traced back to app_features: Online Store"
    assert repr(lineage.lineage(whole)) == f"<Figure: {lineage.finding(whole)}>"


def test_text_stays_within_its_box():
    name = "a_rather_long_app_name_prod_customer_view"
    figure = lineage.lineage(Lineage({"view": LineageNode(name, ("x" * 40,))}, [], "p, r"))
    figure._repr_png_()
    (axes,) = figure.axes
    box = axes.patches[0].get_window_extent()
    for text in axes.texts:
        extent = text.get_window_extent()
        assert box.x0 <= extent.x0 and extent.x1 <= box.x1, text.get_text()


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="no resource exists"):
        lineage.lineage(Lineage())


def test_long_ids_are_shortened():
    assert short("8247321771790154100") == "8247…4100"
    assert short("churn_dev_view") == "churn_dev_view"
