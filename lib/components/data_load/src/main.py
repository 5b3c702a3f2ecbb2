"""data_load: one BigQuery table -> train.parquet, valid.parquet and test.parquet, split by time.

Each file has the id, the time, the label and the features, in that order, sorted by time and
id, so that the same table gives the same bytes. split.json beside them describes the splits.

The split. The label at time t covers (t, t + gap_days], so the label windows of rows closer than
that overlap. Every row of an earlier split has t + gap_days <= first t of the next split; the rows
between are dropped. Consider all pairs (first time of valid, first time of test) that leave no
split empty. K is the largest number of times that a pair keeps. The chosen pair has the three
counts of times nearest to --split_ratios x K (sum of absolute differences); of equal ones the
earliest.

Dropped and counted in split.json: rows in a gap, customers outside the sample, and rows in which
every feature is NULL (no snapshot yet; such a customer is not served online either).

Endpoints: Google's, unless BIGQUERY_EMULATOR_HOST (http://host:port) is set, and
BIGQUERY_STORAGE_GRPC_ENDPOINT (host:port) for the Storage Read API beside it.

Exit status: 0 done, 1 the input cannot be used, 2 a bad command line.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SPLITS = ("train", "valid", "test")
GAP = -1  # the code of a row that lies in a gap
DAY = 86_400_000_000  # microseconds, the unit of every time in this file
MAX_TIMES = 2000  # distinct times that are searched: 5 years of daily snapshots
NUMBERS = {"INTEGER", "INT64", "FLOAT", "FLOAT64", "NUMERIC", "BIGNUMERIC", "BOOLEAN", "BOOL"}
TIMES = {"TIMESTAMP", "DATETIME", "DATE"}
# How long a call is repeated, and how long one waits for its answer: the local BigQuery runs one
# statement at a time, and one over millions of customers takes minutes.
RETRY_SECONDS, LOCAL_RETRY_SECONDS, CALL_SECONDS = 120, 20, 600


class InputError(ValueError):
    """The input cannot be used; the message is one line for the user."""


class Parser(argparse.ArgumentParser):
    """argparse, but an error message has one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


# --- command line -----------------------------------------------------------------------------


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="data_load", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", required=True, help="project.dataset.table")
    parser.add_argument("--label_col", required=True, help="column of 0 and 1")
    parser.add_argument("--time_col", required=True, help="TIMESTAMP, DATETIME or DATE column")
    parser.add_argument("--id_col", required=True, help="column that names the customer")
    parser.add_argument("--feature_cols", required=True, type=names, help="a,b,c")
    parser.add_argument("--gap_days", required=True, type=whole, help="the label's horizon")
    parser.add_argument("--split_ratios", type=ratios, default=(0.6, 0.2, 0.2),
                        help="default 0.6,0.2,0.2")
    parser.add_argument("--sample_percent", type=float, default=100.0,
                        help="of the customers, by hash of the id (default 100)")
    parser.add_argument("--seed", type=whole, default=7, help="of the sample (default 7)")
    parser.add_argument("--build", default="",
                        help="id of this build of the table: copied to split.json, and part of a "
                             "pipeline's cache key, so that a rebuilt table is read again")
    parser.add_argument("--output_dataset", required=True, type=Path, help="folder to write")
    options = parser.parse_args(argv)
    if not 0 < options.sample_percent <= 100:
        parser.error("--sample_percent must be above 0 and at most 100")
    columns = [options.id_col, options.time_col, options.label_col, *options.feature_cols]
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        parser.error(f"named more than once: {', '.join(twice)}")
    return options


def names(text: str) -> list[str]:
    """'a,b' -> ['a', 'b']."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of names a,b,c")
    return parts


def whole(text: str) -> int:
    """'60' or '60.0' (pipelines pass numbers as floats) -> 60, not negative."""
    try:
        number = float(text)
    except ValueError:
        number = -1
    if number < 0 or number != int(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(number)


def ratios(text: str) -> tuple[float, float, float]:
    """'0.6,0.2,0.2' -> three shares above 0 that add up to 1."""
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if len(shares) != 3 or not min(shares) > 0 or abs(sum(shares) - 1) > 1e-6:
        raise argparse.ArgumentTypeError(f"{text!r} is not three shares above 0 that add up to 1")
    return shares


# --- reading ----------------------------------------------------------------------------------


def read_table(
    name: str, id_col: str, time_col: str, numbers: list[str], percent: float = 100, seed: int = 7
) -> tuple[pa.Table, int, np.ndarray]:
    """Only these columns of a BigQuery table, in this order: id, time, then `numbers`.

    Of a sample, other rows are dropped as they come: they need no memory.

    Returns:
        The table: id as string, time as timestamp[us, UTC], INT64 as int64, other numbers as
        float64. Of all rows, also of those outside the sample: their number, and their distinct
        times (int64 microseconds).

    Raises:
        InputError: no such table or column, a column of the wrong type, no rows, no access.
    """
    # Imported here: they take a second, and --help does not need them.
    from google.api_core.exceptions import Forbidden, GoogleAPICallError, NotFound, RetryError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import bigquery

    try:
        reference = bigquery.TableReference.from_string(name)
    except ValueError:
        raise InputError(f"--table {name!r} is not project.dataset.table") from None
    try:
        client, reader, seconds = connect(reference.project)
        retry = bigquery.DEFAULT_RETRY.with_timeout(seconds)
        table = client.get_table(reference, retry=retry, timeout=CALL_SECONDS)
        fields = pick_fields(name, table.schema, id_col, time_col, numbers)
        rows = client.list_rows(table, selected_fields=fields, retry=retry, timeout=CALL_SECONDS)
        kept, count, times = [], 0, set()
        for batch in rows.to_arrow_iterable(bqstorage_client=reader):
            count += batch.num_rows
            times.update(pc.unique(batch[time_col]).to_pylist())
            ids = batch[id_col].cast(pa.string())
            kept.append(batch.filter(pa.array(sampled(ids, percent, seed))))
    except NotFound:
        raise InputError(f"table {name} does not exist") from None
    except Forbidden as error:
        raise InputError(
            f"table {name} may not be read; needed: roles/bigquery.dataViewer on it and "
            f"roles/bigquery.readSessionUser on project {reference.project}: "
            f"{one_line(error)}") from None
    except (GoogleAPICallError, RetryError, GoogleAuthError, OSError) as error:
        raise InputError(f"table {name} cannot be read: {one_line(error)}") from None
    if count == 0:
        raise InputError(f"table {name} has no rows")
    read = pa.Table.from_batches(kept).select([id_col, time_col, *numbers])
    table = normalise(read, name, id_col, time_col)
    distinct = pa.array(sorted(times), read[time_col].type)
    return table, count, microseconds(pa.chunked_array([as_time(distinct)]))


def connect(project: str):
    """(bigquery.Client, BigQueryReadClient or None, seconds for which a call is repeated)."""
    import grpc
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery, bigquery_storage_v1
    from google.cloud.bigquery_storage_v1.services.big_query_read.transports import (
        BigQueryReadGrpcTransport,
    )

    if not os.environ.get("BIGQUERY_EMULATOR_HOST"):
        # Without `project`, a client in a Vertex AI job uses Google's tenant project.
        client = bigquery.Client(project=project)
        return client, bigquery_storage_v1.BigQueryReadClient(), RETRY_SECONDS
    # The client reads BIGQUERY_EMULATOR_HOST by itself, but would still need credentials.
    client = bigquery.Client(project=project, credentials=AnonymousCredentials())
    endpoint = os.environ.get("BIGQUERY_STORAGE_GRPC_ENDPOINT")
    if not endpoint:
        return client, None, LOCAL_RETRY_SECONDS  # rows then come over REST, which is slower
    channel = grpc.insecure_channel(endpoint, options=[
        ("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)])
    reader = bigquery_storage_v1.BigQueryReadClient(
        transport=BigQueryReadGrpcTransport(channel=channel))
    return client, reader, LOCAL_RETRY_SECONDS


def pick_fields(name: str, schema: list, id_col: str, time_col: str, numbers: list[str]) -> list:
    """The schema fields of the columns to read; raises InputError for a missing or wrong one."""
    by_name = {field.name: field for field in schema}
    missing = [column for column in (id_col, time_col, *numbers) if column not in by_name]
    if missing:
        raise InputError(
            f"table {name} has no column {', '.join(missing)}; it has {', '.join(by_name)}")
    wanted = {id_col: ({"STRING", "INTEGER", "INT64"}, "a STRING or INT64"),
              time_col: (TIMES, "a TIMESTAMP, DATETIME or DATE")}
    for column in (id_col, time_col, *numbers):
        types, say = wanted.get(column, (NUMBERS, "a number"))
        field = by_name[column]
        if field.field_type not in types or field.mode == "REPEATED":
            raise InputError(f"column {column} of {name} is {field.field_type}, not {say}")
    return [by_name[column] for column in (id_col, time_col, *numbers)]


def normalise(table: pa.Table, name: str, id_col: str, time_col: str) -> pa.Table:
    """Cast to the types that `read_table` returns; raises InputError for a NULL id or time."""
    columns = {}
    for column in table.column_names:
        values = table[column].combine_chunks()
        if column in (id_col, time_col) and values.null_count:
            raise InputError(f"column {column} of {name} is NULL in {values.null_count} rows")
        if column == id_col:
            values = values.cast(pa.string())
        elif column == time_col:
            values = as_time(values)
        elif values.type != pa.int64():
            values = values.cast(pa.float64())
        columns[column] = values
    return pa.table(columns)


def as_time(values: pa.Array) -> pa.Array:
    """TIMESTAMP, DATETIME or DATE values as timestamp[us, UTC]."""
    return values.cast(pa.timestamp("us")).cast(pa.timestamp("us", tz="UTC"))


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())


# --- splitting --------------------------------------------------------------------------------


def cut_by_ratios(
    times: np.ndarray, gap: int, shares: tuple[float, float, float]
) -> tuple[int, int]:
    """The first time of valid and of test by ratios (rule: docstring of this file).

    Args:
        times: distinct times, ascending, int64 microseconds.
        gap: microseconds between the splits.

    Raises:
        InputError: too few times, or too many to be snapshots.
    """
    count = len(times)
    if count > MAX_TIMES:
        raise InputError(
            f"the time column has {count} distinct times, more than {MAX_TIMES}: they are not "
            "those of snapshots")
    index = np.arange(count)
    # For each time, the number of times that are at least a gap before it.
    before = np.minimum(np.searchsorted(times, times - gap, side="right"), index)
    # Row: where valid starts; column: where test starts.
    train = np.broadcast_to(before[:, None], (count, count))
    valid = before[None, :] - index[:, None]
    test = np.broadcast_to(count - index[None, :], (count, count))
    kept = np.where((train > 0) & (valid > 0), train + valid + test, 0)
    if not kept.any():
        raise InputError(too_few(times, gap))
    most = kept.max()
    miss = sum(abs(part - share * most)
               for part, share in zip((train, valid, test), shares, strict=True))
    miss = np.where(kept > 0, miss.round(9), np.inf)  # rounded, so that ties are ties
    row, column = np.unravel_index(np.argmin(miss), miss.shape)
    return int(times[row]), int(times[column])


def too_few(times: np.ndarray, gap: int) -> str:
    have = f"{len(times)} distinct times over {(times[-1] - times[0]) / DAY:g} days are too few: "
    if len(times) < 2:
        return have + f"at least 3 are needed, with {gap / DAY:g} days from split to split"
    step = int(np.median(np.diff(times)))
    need = 2 * max(1, -(-gap // step)) + 1
    return have + (
        f"three splits with gaps of {gap / DAY:g} days need at least {need} at a step of "
        f"{step / DAY:g} days")


def assign(times: np.ndarray, gap: int, valid_from: int, test_from: int) -> np.ndarray:
    """The split of each time: an index into SPLITS, or GAP. All int64 microseconds."""
    codes = np.full(len(times), GAP, dtype=np.int8)
    codes[(times < valid_from) & (times + gap <= valid_from)] = 0
    codes[(times >= valid_from) & (times < test_from) & (times + gap <= test_from)] = 1
    codes[times >= test_from] = 2
    return codes


def sampled(ids: pa.Array, percent: float, seed: int) -> np.ndarray:
    """Which rows to keep: all of a customer or none, the same in every run and on every machine.

    A customer kept at one percentage is kept at every higher one.
    """
    if percent == 100:
        return np.ones(len(ids), dtype=bool)
    coded = ids.dictionary_encode()
    limit = percent / 100 * 2**64

    def draw(customer: str) -> int:
        digest = hashlib.blake2b(f"{seed}:{customer}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big")

    keep = np.array([draw(customer) < limit for customer in coded.dictionary.to_pylist()])
    return keep[coded.indices.to_numpy()]


def check_labels(labels: pa.Array, column: str) -> pa.Array:
    """The labels as int64; raises InputError for NULL and for anything but 0 and 1."""
    if labels.null_count:
        raise InputError(f"label {column} is NULL in {labels.null_count} of {len(labels)} rows")
    found = pc.unique(labels).to_pylist()
    if not set(found) <= {0, 1}:
        raise InputError(f"label {column} must be 0 or 1, but has {sorted(found)[:5]}")
    return labels.cast(pa.int64())


def check_unique(table: pa.Table, id_col: str, time_col: str) -> None:
    """Raises InputError if an (id, time) pair repeats; `table` is sorted by time and id."""
    ids, times = table[id_col].combine_chunks(), table[time_col].combine_chunks()
    same = pc.and_(pc.equal(ids[1:], ids[:-1]), pc.equal(times[1:], times[:-1]))
    if pc.any(same).as_py():
        first = pc.index(same, True).as_py()
        raise InputError(
            f"{pc.sum(same).as_py()} rows repeat a pair ({id_col}, {time_col}), such as "
            f"({ids[first].as_py()}, {times[first].as_py().isoformat()}); each must be unique")


# --- the program --------------------------------------------------------------------------------


def split_table(
    table: pa.Table, options: argparse.Namespace, count: int | None = None,
    distinct: np.ndarray | None = None,
) -> tuple[dict[str, pa.Table], dict]:
    """The three splits of `table`, and the content of split.json.

    Args:
        table: the rows of the sample, as `read_table` returns them.
        count, distinct: of all rows, by default of the table's: how many, and their times.

    Raises:
        InputError: a label, the times or a split that cannot be used.
    """
    id_col, time_col, label_col = options.id_col, options.time_col, options.label_col
    labels = check_labels(table[label_col].combine_chunks(), label_col)
    table = table.set_column(table.column_names.index(label_col), label_col, labels)
    table = table.sort_by([(time_col, "ascending"), (id_col, "ascending")])
    check_unique(table, id_col, time_col)

    # The cuts come from all rows, so that a sample has the same ones.
    times, gap = microseconds(table[time_col]), options.gap_days * DAY
    distinct = np.unique(times) if distinct is None else distinct
    cuts = cut_by_ratios(distinct, gap, options.split_ratios)
    codes = assign(times, gap, *cuts)
    known = np.zeros(len(table), dtype=bool)
    for feature in options.feature_cols:
        known |= table[feature].is_valid().to_numpy()

    splits = {name: table.filter(pa.array(known & (codes == code)))
              for code, name in enumerate(SPLITS)}
    report = {
        "table": options.table,
        "build": options.build,
        "columns": {"id": id_col, "time": time_col, "label": label_col,
                    "features": options.feature_cols},
        "gap_days": options.gap_days,
        "sample_percent": options.sample_percent,
        "seed": options.seed,
        "rows_read": count or len(table),
        "dropped": {
            "outside_sample": (count or len(table)) - len(table),
            "without_features": int((~known).sum()),
            "in_gap": int((known & (codes == GAP)).sum()),
            "times_in_gap": int((assign(distinct, gap, *cuts) == GAP).sum()),
        },
        "splits": {name: describe(name, part, options) for name, part in splits.items()},
    }
    return splits, report


def describe(name: str, part: pa.Table, options: argparse.Namespace) -> dict:
    """Rows, customers, times and positive rate of one split.

    Raises:
        InputError: the split is empty, or has one class only.
    """
    if len(part) == 0:
        raise InputError(
            f"split {name} is empty after the gap of {options.gap_days} days and the sample of "
            f"{options.sample_percent:g} %")
    rate = pc.mean(part[options.label_col]).as_py()
    if rate in (0, 1):
        raise InputError(
            f"label {options.label_col} is {rate:g} in all {len(part)} rows of split {name}: "
            "both classes are needed")
    times = microseconds(part[options.time_col])
    return {
        "first": iso(times.min()), "last": iso(times.max()), "times": len(np.unique(times)),
        "rows": len(part), "customers": pc.count_distinct(part[options.id_col]).as_py(),
        "positive_rate": round(rate, 6),
    }


def microseconds(column: pa.ChunkedArray) -> np.ndarray:
    """A timestamp[us] column as int64 since 1970, UTC."""
    return column.cast(pa.int64()).to_numpy()


def iso(microseconds_utc: int) -> str:
    seconds = int(microseconds_utc) / 1_000_000
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def write(splits: dict[str, pa.Table], report: dict, folder: Path) -> None:
    """Write the files of the dataset; each is complete or absent."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in splits.items():
        temporary = folder / f".{name}.parquet.tmp"
        pq.write_table(part, temporary, compression="zstd")
        temporary.replace(folder / f"{name}.parquet")
    temporary = folder / ".split.json.tmp"
    temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / "split.json")


def explain(error: Exception) -> str:
    """The error in a line, with what to change if it is the user of the container."""
    if isinstance(error, PermissionError) and "/gcs/" in str(error):
        return (f"{error}: the user of this container may not write below /gcs; delete the USER "
                "line of its Dockerfile and build the image again")
    return str(error)


def main(argv: list[str] | None = None) -> int:
    """The program; returns the exit status."""
    options = parse_arguments(argv)
    began = time.perf_counter()
    try:
        table, count, distinct = read_table(
            options.table, options.id_col, options.time_col,
            [options.label_col, *options.feature_cols], options.sample_percent, options.seed)
        print(f"data_load: read {count} rows of {options.table} "
              f"in {time.perf_counter() - began:.1f} s", flush=True)
        splits, report = split_table(table, options, count, distinct)
        write(splits, report, options.output_dataset)
    except (InputError, OSError) as error:
        print(f"data_load: {explain(error)}", file=sys.stderr)
        return 1
    for name, part in report["splits"].items():
        print(f"data_load: {name:5} {part['rows']:>8} rows, {part['times']} times "
              f"{part['first'][:10]} to {part['last'][:10]}, "
              f"positive rate {part['positive_rate']:.4f}")
    dropped = report["dropped"]
    print(f"data_load: dropped {dropped['in_gap']} rows at {dropped['times_in_gap']} times in the "
          f"gaps, {dropped['outside_sample']} outside the sample, "
          f"{dropped['without_features']} without features")
    return 0


if __name__ == "__main__":
    sys.exit(main())
