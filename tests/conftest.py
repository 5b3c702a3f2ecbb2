"""A local cloud of the tests' own: another state folder, a small theLook."""

import os
import tempfile

import pytest

_STATE = tempfile.TemporaryDirectory(prefix="localcloud-test-", ignore_cleanup_errors=True)
os.environ["LOCALCLOUD_STATE"] = _STATE.name  # before anything imports lib.localcloud

SMALL = {"thelook": {"users": 3000}}


@pytest.fixture(scope="session")
def settings():
    """config.yaml with 3,000 users of theLook."""
    from lib import config

    return config.load(target="local", env="dev", overrides=SMALL)


@pytest.fixture(scope="session")
def cloud(settings):
    """Google's clients pointed at a running local cloud; stopped at the end."""
    from lib import cloud as clouds

    yield clouds.connect(settings)
    clouds.stop_local()


@pytest.fixture(scope="session")
def google():
    """Google's SQL analyzer and reference engine."""
    from tests.sql.googlesql import GoogleSql

    return GoogleSql()
