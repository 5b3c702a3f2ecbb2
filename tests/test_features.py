"""Adding a feature as lib/README.md says: disagreements are reported, and the feature is served."""

import json
import re
import shutil

import pytest

from lib import warehouse
from lib.config import ROOT
from lib.operate import preflight_resources
from tests.support import forked
from tests.support.walk import SMALL

CONFIG = "config.yaml"
BUILD, REQUEST = "sql/02_build_features.sql", "sql/request_time_features.sql"
# The page's feature under another name: who follows the page has added that one.
PAGE, NAME = "items_90d", "items_for_the_test"
# File -> what follows the line of the newest feature.
NEXT = {CONFIG: "\nonline_store:", BUILD: "\n    base.feature_timestamp,\nfrom",
        REQUEST: "\n    @feature_timestamp as feature_timestamp,\nfrom"}

# One pass of the flow; prints the status of each step, and the new feature of one customer.
FLOW = """
import json

from lib import (
    cloud, config, endpoint, feature_store, lookups, model_registry, source_load, warehouse)
from lib.proof import parity
from lib.training import training

c = cloud.connect(config.load())
steps = {"dataset": warehouse.create_dataset, "source": source_load.load}
steps |= {file: lambda c, file=file: warehouse.build(c, file) for file in warehouse.BUILDS}
steps |= {
    "group": feature_store.create_group, "features": feature_store.register_features,
    "store": feature_store.create_online_store, "view": feature_store.create_view,
    "sync": feature_store.sync, "training": training.train,
    "model": lambda c: model_registry.upload(c, training.train(c).value),
    "endpoint": endpoint.create,
    "deployment": lambda c: endpoint.deploy(c, endpoint.find(c), model_registry.find(c)),
    "parity": parity.check}
statuses = {name: step(c).status for name, step in steps.items()}
(customer,), (sql,) = lookups.served_customers(c, 1), warehouse.render(
    "request_time_features", c.settings)
by_sql = warehouse.query(c, sql, customer_id=customer,
                         feature_timestamp=lookups.newest_snapshot(c))
print(json.dumps({"customer": customer, "statuses": statuses,
                  "by_sql": float(by_sql.get("items_for_the_test", [-1])[0])}))
"""


def lines_of_the_page() -> dict[str, str]:
    """File -> the line that the page says to add to it, with NAME as the feature's name."""
    page = (ROOT / "lib" / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## Add a feature\n(.*?)(?=^## |\Z)", page, re.S | re.M)[1]
    steps = re.findall(r"^\d\. In `([^`]+)`.*?```\w+\n(.*?) *```", section, re.S | re.M)
    lines = {file: re.sub("^ {3}", "", text) for file, text in steps}  # inside a list of steps
    return {file: renamed(text) for file, text in lines.items()}


def renamed(line: str) -> str:
    """`{name: PAGE`, `... as PAGE,` and `table.PAGE,` result in a feature called NAME."""
    for old, new in ((f"name: {PAGE}", f"name: {NAME}"), (f"as {PAGE},", f"as {NAME},")):
        if old in line:
            return line.replace(old, new)
    return line.replace(f"{PAGE},", f"{PAGE} as {NAME},")


def add(folder, file):
    """Add the page's line for this file to the copy in `folder`."""
    path = folder / file
    text, line = path.read_text(encoding="utf-8"), lines_of_the_page()[file]
    assert text.count(NEXT[file]) == 1
    path.write_text(text.replace(NEXT[file], line + NEXT[file]), encoding="utf-8")


@pytest.fixture
def copy(tmp_path):
    """A copy of the project with a local cloud of its own, stopped at the end."""
    ignore = shutil.ignore_patterns("__pycache__")
    for part in ("lib", "sql"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=ignore)
    shutil.copy(ROOT / CONFIG, tmp_path)
    (tmp_path / "flow.py").write_text(FLOW)
    yield tmp_path
    run(tmp_path, "lib.localcloud", "stop")


def run(folder, module, *arguments):
    return forked.run(module, *arguments, folder=folder, LOCALCLOUD_STATE=str(folder / "state"),
                      CHURN_DEMO_SET=json.dumps(SMALL))


def flow(folder):
    done = run(folder, "flow")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_page_has_a_line_for_each_file():
    assert list(lines_of_the_page()) == [CONFIG, BUILD, REQUEST]


def test_the_committed_files_agree(settings):
    assert preflight_resources.missing_features(settings) == []


@pytest.mark.parametrize("changed, missing", [
    ([CONFIG], [("feature items_for_the_test is in config.yaml, but sql/02", BUILD),
                ("feature items_for_the_test is in config.yaml, but sql/request", REQUEST)]),
    ([CONFIG, BUILD], [("but sql/request_time_features.sql does not select it", REQUEST)]),
    ([CONFIG, REQUEST], [("but sql/02_build_features.sql does not select it", BUILD)]),
    ([BUILD], [("sql/02_build_features.sql selects items_for_the_test, which is not a", CONFIG)]),
    ([REQUEST], [("sql/request_time_features.sql selects items_for_the_test, which", CONFIG)]),
    ([CONFIG, BUILD, REQUEST], [])])
def test_each_disagreement_names_the_file_and_what_to_write(
    settings, tmp_path, monkeypatch, changed, missing
):
    shutil.copytree(ROOT / "sql", tmp_path / "sql")
    monkeypatch.setattr(warehouse, "ROOT", tmp_path)
    for file in {BUILD, REQUEST} & {*changed}:
        add(tmp_path, file)
    new = settings.features[0].model_copy(update={"name": NAME})
    listed = [*settings.features, *([new] if CONFIG in changed else [])]
    found = preflight_resources.missing_features(settings.model_copy(update={"features": listed}))
    for needed, (cause, file) in zip(found, missing, strict=True):
        assert cause in needed.cause and needed.command == f"edit {file}"
        line = f"- {{name: {NAME}," if file == CONFIG else f"... as {NAME},"
        assert line in needed.need and file in needed.need


def test_a_twelfth_feature_is_served_after_the_steps_of_the_page(copy, settings):
    before = flow(copy)
    assert {*before["statuses"].values()} == {"created", "done"}

    add(copy, CONFIG)
    done = run(copy, "lib.operate.preflight")
    assert done.returncode == 1, done.stdout + done.stderr
    for file in (BUILD, REQUEST):
        assert f"but {file} does not select it" in done.stdout
    add(copy, BUILD)
    add(copy, REQUEST)
    done = run(copy, "lib.operate.preflight")
    assert done.returncode == 0 and "ok    features:" in done.stdout, done.stdout + done.stderr

    after = flow(copy)
    assert {name for name, status in after["statuses"].items() if status == "created"} == {
        "02_build_features", "04_build_train", "04_build_train_naive", "features", "view", "sync",
        "training", "model", "deployment"}
    done = run(copy, "lib.predict", "--customer_id", after["customer"])
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert len(answer["features"]) == len(settings.features) + 1
    assert answer["features"][NAME] == after["by_sql"] > 0
    assert 0 < answer["churn_probability"] < 1
