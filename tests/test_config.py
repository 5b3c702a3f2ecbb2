"""config.yaml is checked before anything is asked of any service."""

import pytest
import yaml

from lib import config


def test_the_committed_file_loads_for_every_environment():
    for env in ("dev", "prod"):
        settings = config.load(target="local", env=env)
        assert settings.names.dataset == f"churn_{env}"
        assert settings.names.feature_view.startswith(f"churn_{env}_")
        assert settings.table("features") == f"local-demo.churn_{env}.features_customer"


def test_an_environment_block_overrides_only_what_it_names():
    dev, prod = (config.load(target="local", env=env) for env in ("dev", "prod"))
    assert (dev.online_store.max_node_count, prod.online_store.max_node_count) == (1, 2)
    assert dev.online_store.min_node_count == prod.online_store.min_node_count


def test_gcp_needs_a_project_of_its_own():
    with pytest.raises(config.ConfigError, match=r"targets\.gcp\.project = 'your-project-id'"):
        config.load(target="gcp")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ({"lable": {}}, ["lable", "unknown key"]),
        ({"label": {"horizn": 1}}, ["label.horizn", "unknown key"]),
        ({"label": {"horizon_days": 45}}, ["label.horizon_days = 45", "60 or 90"]),
        ({"snapshots": {"step_days": "weekly"}}, ["snapshots.step_days = 'weekly'", "integer"]),
        ({"targets": {"local": {"region": "asia-northeast3"}}},
         ["targets.local.region = 'asia-northeast3'", "us-central1"]),
        ({"targets": {"local": {"location": "EU-WEST"}}}, ["location = 'EU-WEST'", "us-central1"]),
        ({"names": {"feature_group": "Churn-Dev"}}, ["names.feature_group = 'Churn-Dev'"]),
        ({"names": {"feature_view": "other_view"}}, ["names.feature_view", "churn_dev"]),
        ({"names": {"bucket": "Under_score"}}, ["names.bucket = 'Under_score'"]),
        ({"names": {"model": "{nonsense}_model"}}, ["names.model", "{app}"]),
        ({"app": "1churn"}, ["app = '1churn'"]),
        ({"features": []}, ["features"]),
        ({"train": {"split_ratios": [0.5, 0.2, 0.2]}}, ["train.split_ratios", "add up to 1"]),
        ({"train": {"model_type": "xgboost"}}, ["train.model_type = 'xgboost'"]),
        ({"label": {"positive_rate_band": [0.9, 0.1]}}, ["label.positive_rate_band"]),
        ({"thelook_only": {"positive_rate_band": [0.9, 0.1]}}, ["thelook_only.positive_rate_band"]),
        ({"thelook_only": {"sources": ["~no-such-user/x"]}},
         ["thelook_only.sources.0 = '~no-such-user/x'"]),
        ({"online_store": {"min_node_count": 3}}, ["online_store", "max_node_count"]),
        ({"predict": {"customers": 3}}, ["predict.customers = 3", "10"]),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(override, parts):
    with pytest.raises(config.ConfigError) as caught:
        config.load(target="local", overrides=override)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(("region", "near"), [
    ("asia-northeast3", "asia-northeast1"), ("northamerica-northeast1", "us-east4"),
    ("australia-southeast1", "asia-southeast1"), ("europe-north1", "europe-west4"),
    ("us-west99", "us-central1"), ("nowhere", "africa-south1")])
def test_a_region_without_the_feature_store_is_reported_with_the_nearest_that_has_it(region, near):
    place = {"region": region, "location": region}
    with pytest.raises(config.ConfigError, match=f"nearest region that has it is {near},"):
        config.load(target="local", overrides={"targets": {"local": place}})


def test_the_nearest_regions_are_offered_and_those_without_it_are_not():
    settings = config.load(target="local")
    offered, nearest = set(settings.feature_store_regions), settings.nearest_regions
    assert set(nearest.values()) <= offered
    assert nearest and not offered & set(nearest)


def test_a_doubled_feature_is_refused():
    tree = yaml.safe_load((config.ROOT / "config.yaml").read_text())
    features = [*tree["features"], tree["features"][0]]
    with pytest.raises(config.ConfigError, match="given more than once"):
        config.load(target="local", overrides={"features": features})


def test_a_missing_and_a_broken_file_have_messages_of_their_own(tmp_path):
    with pytest.raises(config.ConfigError, match="cannot be read"):
        config.load(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(config.ConfigError, match="not valid YAML"):
        config.load(broken)


def test_the_label_column_follows_the_horizon():
    ninety = config.load(target="local", overrides={"label": {"horizon_days": 90}})
    assert ninety.label.column == "label_churn_90d"


def test_a_source_is_a_dataset_or_a_folder(tmp_path):
    assert not config.load(target="local").source_is_folder
    folder = config.load(target="local", overrides={"source": str(tmp_path)})
    assert folder.source_is_folder
    assert folder.source_dataset == "local-demo.churn_dev_source"


@pytest.mark.parametrize(("source", "is_folder"), [
    ("some-project-1.thelook", False), ("bigquery-public-data.thelook_ecommerce", False),
    ("export-2026.zip", True), ("thelook-export.tgz", True), ("v2.export", True),
    ("my export", True), ("exports/v1.2", True)])
def test_an_archive_and_a_folder_with_a_dot_are_no_datasets(source, is_folder):
    settings = config.load(target="local", overrides={"source": source})
    assert settings.source_is_folder == is_folder


def test_an_existing_folder_whose_name_looks_like_a_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "ROOT", tmp_path)
    settings = config.load(config.Path(__file__).parents[1] / "config.yaml", target="local",
                           overrides={"source": "thelook-export.v2"})
    assert not settings.source_is_folder
    (tmp_path / "thelook-export.v2").mkdir()
    assert settings.source_is_folder


def test_what_is_known_of_thelook_applies_to_it_and_to_no_other_data(tmp_path):
    def load(**more):
        return config.load(target="local", overrides={"source": str(tmp_path), **more})

    limits = {"positive_rate_band": [0.8, 0.97], "max_honest_roc_auc": 0.81}
    thelook = config.load(target="local", overrides={"thelook_only": limits})
    copy = load(thelook_only={**limits, "sources": [f"{tmp_path}/"]})
    for known in (thelook, copy):
        assert known.is_thelook and known.source_title == "theLook eCommerce"
        assert (known.positive_rate_band, known.max_honest_roc_auc) == ((0.8, 0.97), 0.81)
    other = load()
    assert not other.is_thelook and other.source_title == tmp_path.name
    assert (other.positive_rate_band, other.max_honest_roc_auc) == (None, None)
    given = load(label={"positive_rate_band": [0.6, 0.7]}, checks={"max_honest_roc_auc": 0.9})
    assert (given.positive_rate_band, given.max_honest_roc_auc) == ((0.6, 0.7), 0.9)


def test_the_commands_that_are_suggested_carry_the_options_in_force(monkeypatch, tmp_path):
    monkeypatch.delenv(config.CONFIG_VARIABLE, raising=False)
    monkeypatch.delenv(config.SETTINGS_VARIABLE, raising=False)
    settings = config.load(target="local", env="prod")
    assert settings.rerun_command("04") == "./run_all.sh --target local --env prod --from 04"
    monkeypatch.setenv(config.CONFIG_VARIABLE, "/my files/c.yaml")
    monkeypatch.setenv(config.SETTINGS_VARIABLE, '{"source": "/data/export", "language": "ko"}')
    assert settings.rerun_command() == (
        "./run_all.sh --target local --env prod --config '/my files/c.yaml' --source /data/export "
        "--lang ko")
    assert settings.command("lib.operate.teardown", "--yes") == (
        ".venv/bin/python -m lib.operate.teardown --target local --env prod "
        "--config '/my files/c.yaml' --source /data/export --yes")


def test_the_account_of_training_and_serving_follows_the_target():
    gcp = {"targets": {"gcp": {"project": "some-project"}}}
    assert config.load(target="local").service_account is None
    assert config.load(target="gcp", env="prod", overrides=gcp).service_account == (
        "churn-prod-runner@some-project.iam.gserviceaccount.com")
    other = config.load(target="gcp", overrides={**gcp, "train": {"service_account": "a@b.c"}})
    assert other.service_account == "a@b.c"
    with pytest.raises(config.ConfigError, match="service_account = 'runner': must contain churn-"):
        config.load(target="local", overrides={"names": {"service_account": "runner"}})
