"""Rules of custom jobs; each is listed with its source in ../../README.md."""

from google.protobuf.message import Message

from lib.localcloud.errors import invalid, unsupported
from lib.localcloud.vertex.base import rules
from lib.localcloud.vertex.programs.mount import split_uri

# Each would make the job do something that is not implemented here.
UNSUPPORTED = ("persistent_resource_id", "tensorboard", "enable_web_access",
               "enable_dashboard_access", "experiment", "experiment_run", "models")
UNSUPPORTED_IN_POOL = ("python_package_spec", "nfs_mounts", "lustre_mounts")
MAX_VARIABLES = 100


def check_job(job: Message) -> None:
    """One container in one worker pool, and nothing that cannot be run here."""
    rules.check_display_name(job.display_name)
    rules.check_labels(job.labels)
    spec = job.job_spec
    if set_fields := [name for name in UNSUPPORTED if getattr(spec, name)]:
        raise unsupported("divergence.custom-jobs", f"job_spec.{set_fields[0]}")
    # Only the first pool is required: the others "can be skipped by providing an empty value".
    pools = [pool for pool in spec.worker_pool_specs if pool.ByteSize()]
    if len(pools) > 1:
        raise unsupported(
            "divergence.custom-jobs", "job_spec.worker_pool_specs: more than one worker pool")
    if not pools or pools[0] != spec.worker_pool_specs[0]:
        raise invalid("jobs.pool", "job_spec.worker_pool_specs: the first pool is required.")
    for name in UNSUPPORTED_IN_POOL:
        if name in {field.name for field, _ in pools[0].ListFields()}:
            raise unsupported("divergence.custom-jobs", f"job_spec.worker_pool_specs[0].{name}")
    if pools[0].replica_count > 1:
        raise unsupported(
            "divergence.custom-jobs",
            "job_spec.worker_pool_specs[0].replica_count: more than one replica")
    container = pools[0].container_spec
    if not container.image_uri:
        raise invalid(
            "jobs.pool", "job_spec.worker_pool_specs[0].container_spec.image_uri is required.")
    if len(container.env) > MAX_VARIABLES:
        raise invalid("jobs.variables", f"container_spec.env: at most {MAX_VARIABLES} are allowed.")
    if spec.base_output_directory.output_uri_prefix:
        split_uri(spec.base_output_directory.output_uri_prefix)
