"""A served store of the checks' own, by another app name: the other tests' stays untouched."""

import dataclasses

import pytest

from lib import config, endpoint, feature_store, model_registry, warehouse
from lib.training import training
from tests.conftest import SMALL

OVERRIDES = {
    **SMALL, "app": "proof",
    "checks": {"leakage_groups": 4, "min_join_coverage": 0.9},
    "train": {"params": {"random_forest": {"n_estimators": 25}}},
}


@pytest.fixture(scope="module")
def proof(cloud):
    """Tables, group, view and sync of the app "proof", on the tests' local cloud."""
    settings = config.load(target="local", env="dev", overrides=OVERRIDES)
    there = dataclasses.replace(cloud, settings=settings)
    warehouse.create_dataset(there)
    for file in warehouse.BUILDS:
        warehouse.build(there, file)
    for step in (feature_store.create_group, feature_store.register_features,
                 feature_store.create_online_store, feature_store.create_view,
                 feature_store.sync):
        step(there)
    return there


@pytest.fixture(scope="module")
def deployed(proof):
    """The same with a model on its endpoint."""
    model_registry.upload(proof, training.train(proof).value)
    endpoint.deploy(proof, endpoint.create(proof).value, model_registry.find(proof))
    return proof


def switched_off(cloud, switch):
    """The same cloud with targets.local.<switch>: false."""
    target = cloud.settings.target_settings.model_copy(update={switch: False})
    settings = cloud.settings.model_copy(
        update={"targets": {**cloud.settings.targets, "local": target}})
    return dataclasses.replace(cloud, settings=settings)
