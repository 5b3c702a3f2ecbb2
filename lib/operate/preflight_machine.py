"""Check of preflight: the memory and the disk that the run needs of this machine."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lib import source
from lib.cloud import Cloud
from lib.operate.finding import Finding

GB = 10**9
# Without customers, and for each million of them with SNAPSHOTS snapshots. Measured (lib/README.md,
# "Ten times the data"): by how much more memory and disk the machine used than before. One million
# took 4.3 GB when DuckDB might have 1.6 of them, the third of a machine of 4.8 GB; five million
# took 10.8 GB on one of 24 GB, and 22.5 GB of disk.
MEMORY, MEMORY_OF_MILLION = 2.5, 1.8
DISK, DISK_OF_MILLION = 0.5, 4.5
SNAPSHOTS = 62
MEMORY_ON_GOOGLE = 2.0  # the notebooks read samples, whatever the size of the tables
NEAR = 0.8  # of the memory or disk that is there: from here on there is a warning
LEAST_PERCENT = 1  # snapshots.sample_percent
# The limit of a container, in bytes, as its own processes see it: cgroup v2 and v1 of Linux (the
# kernel's admin-guide). "max" (v2) and a huge number (v1): no limit.
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine(cloud: Cloud) -> Iterator[Finding]:
    """There is enough memory and, where the tables are kept on this machine, enough disk."""
    memory = _memory() / GB
    folder, settings = cloud.data_folder, cloud.settings
    if folder is None:
        yield _judge("memory", MEMORY_ON_GOOGLE, 0, memory, settings.snapshots.sample_percent)
        return
    days = settings.snapshots.history_days + settings.label.horizon_days
    size = customers(cloud) / 1e6 * (days / settings.snapshots.step_days + 2) / SNAPSHOTS
    for what, fixed, of_million, there in (
            ("memory", MEMORY, MEMORY_OF_MILLION, memory),
            ("disk", DISK, DISK_OF_MILLION, shutil.disk_usage(folder).free / GB)):
        yield _judge(what, fixed, size * of_million, there, settings.snapshots.sample_percent)


def _memory() -> int:
    """Bytes of the machine, or of the container where it has less."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for file in LIMITS:
        with suppress(OSError, ValueError):
            sizes.append(int(Path(file).read_text()))
    return min(sizes)


def customers(cloud: Cloud) -> int:
    """Of the source, also those without an order."""
    settings = cloud.settings
    if settings.source_is_folder:
        return source.count_customers(settings.source_folder)
    return cloud.bigquery.get_table(f"{settings.source_dataset}.users").num_rows


def _judge(what: str, fixed: float, by_all: float, there: float, percent: int) -> Finding:
    """Is there enough? fixed: GB for any data; by_all: GB more for all customers of the source;
    there: GB; percent: the share of the customers that is kept."""
    needed = fixed + by_all * percent / 100
    found = f"the run needs about {needed:.1f} GB of {what}, and there are {there:.1f} GB"
    if needed <= NEAR * there:
        return Finding("ok", found)
    fits = int(100 * (NEAR * there - fixed) / by_all) if by_all else 0
    if fits >= LEAST_PERCENT:
        need = f"snapshots.sample_percent: {min(fits, percent)}, or a shorter history_days"
        command = "edit config.yaml"
    else:
        need, command = f"a machine with {needed / NEAR:.1f} GB of {what}", ""
    # With too little memory DuckDB goes on from disk: slower, and how far was not tried.
    short = needed > there and (what == "disk" or fixed > there)
    return Finding("blocker" if short else "warning", found, need, command)
