"""The feature list of config.yaml compared with the two SQL files that compute the features."""

import sqlglot
from sqlglot import exp

from lib import warehouse
from lib.config import ENTITY, TIMESTAMP, Settings
from lib.errors import Needed

# The files that compute every feature: for each snapshot, and for one customer at one time.
FILES = ("02_build_features", "request_time_features")


def selected(sql: str) -> list[str]:
    """The names of the columns that a query, or `create table ... as` a query, results in."""
    statement = sqlglot.parse_one(sql, read="bigquery")
    query = statement.expression if isinstance(statement, exp.Create) else statement
    return query.named_selects


def missing_features(settings: Settings) -> list[Needed]:
    """Every disagreement between the list and a file: what is missing where, and what to write.
    Empty if they agree.

    Raises:
        sqlglot.errors.ParseError: a file is not BigQuery SQL.
    """
    found = []
    for file in FILES:
        path = f"sql/{file}.sql"
        (statement,) = warehouse.render(file, settings)
        columns = [name for name in selected(statement) if name not in (ENTITY, TIMESTAMP)]
        found += [Needed(
            f"feature {name} is in config.yaml, but {path} does not select it",
            f"a line `... as {name},` in the last select of {path}, or no {name} under "
            "features in config.yaml", f"edit {path}")
            for name in settings.feature_names if name not in columns]
        found += [Needed(
            f"{path} selects {name}, which is not a feature in config.yaml",
            f"a line `- {{name: {name}, type: ..., unit: ..., description: ...}}` under features "
            f"in config.yaml, or no {name} in the last select of {path}", "edit config.yaml")
            for name in columns if name not in settings.feature_names]
    return found
