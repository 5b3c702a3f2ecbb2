"""Google's SQL engine, loaded once for all tests of SQL."""

import pytest

from tests.sql.googlesql import GoogleSql


@pytest.fixture(scope="session")
def google():
    return GoogleSql()
