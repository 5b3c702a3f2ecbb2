"""A small project of the contract tests' own, and the commands in it.

Against the local cloud it runs behind the gateway (tests/support), which records every request
and fails on demand. With CHURN_DEMO_TEST_TARGET=gcp (scripts/test.sh --gcp) the same runs go to
the project of config.yaml, with nothing recorded and nothing broken.
"""

import dataclasses
import functools
import json
import os
import subprocess
import urllib.request
from pathlib import Path
from unittest.mock import patch

import google.auth
import pytest
import yaml
from google.auth.exceptions import DefaultCredentialsError

from lib import config, errors, localcloud
from lib.config import ROOT
from lib.config_file import merge
from lib.localcloud import process
from tests.support import forked, local_cloud, walk
from tests.support.walk import SMALL

TARGET = os.environ.get("CHURN_DEMO_TEST_TARGET", "local")
if TARGET == "gcp":
    # Names of the tests' own, in whatever project it is: their teardown must not meet a demo.
    # Google is polled and asked again as seldom as in any run.
    SMALL = {key: value for key, value in SMALL.items() if key not in ("waits", "retries")} | {
        "app": "churntest", "snapshots": {"sample_percent": 10}}


@dataclasses.dataclass
class Project:
    """The folder of a run's configuration, and where the local cloud listens (None on gcp)."""

    folder: Path
    running: dict | None

    def run(self, module: str = "lib.operate.run") -> subprocess.CompletedProcess:
        """`python -m lib.operate.run`, or a plain run."""
        return self.command(module, "--target", TARGET, timeout=3600)

    def command(self, module: str, *arguments: str, timeout: float = 900, **settings):
        return forked.run(
            module, *arguments, timeout=timeout, LOCALCLOUD_STATE=str(self.folder / "state"),
            CHURN_DEMO_RUNS=str(self.folder / "runs"), **self._configured(settings))

    def notebook(self, number: str, **settings) -> str:
        """Run a notebook's code, in this process; the error that ends it, "" if it completes."""
        start = functools.partial(process.start, state=self.folder / "state")
        with (patch.dict(os.environ, self._configured(settings)),
              patch.object(localcloud, "start", start)):
            try:
                walk.execute(walk.NOTEBOOKS[int(number) - 1], config.load(), self.folder / "run")
            except errors.StageError as error:
                return str(error)
        return ""

    def _configured(self, settings: dict) -> dict[str, str]:
        """The variable that names a config.yaml with these settings."""
        tree = yaml.safe_load((ROOT / "config.yaml").read_text())
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(merge(merge(tree, SMALL), settings)))
        return {config.CONFIG_VARIABLE: str(path)}

    def summary(self) -> dict:
        return json.loads((self.folder / "runs" / "latest" / "summary.json").read_text())

    def fail(self, *rules: dict) -> None:
        """Tell the local cloud what to refuse, instead of what it was told before."""
        self._admin("DELETE", "faults")
        self._admin("POST", "faults", list(rules))

    def heal(self) -> None:
        self._admin("DELETE", "faults")

    def requests(self) -> list[dict]:
        """Every request since `forget`."""
        return self._admin("GET", "requests")

    def forget(self) -> None:
        self._admin("DELETE", "requests")

    def _admin(self, verb: str, path: str, body: object = None) -> object:
        request = urllib.request.Request(
            f"{self.running['admin']}/admin/{path}", method=verb,
            data=None if body is None else json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or "null")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """An empty project: nothing exists in it yet."""
    folder = tmp_path_factory.mktemp("project")
    if TARGET == "gcp":
        try:
            google.auth.default()
        except DefaultCredentialsError:
            pytest.skip("no Google credentials: gcloud auth application-default login")
        yield Project(folder, None)
        return
    settings = config.load(target="local", env="dev", overrides=SMALL)
    running = local_cloud.start(
        settings.project, settings.thelook.model_dump(mode="json"), state=folder / "state")
    yield Project(folder, running)
    process.stop(folder / "state")
