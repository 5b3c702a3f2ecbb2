"""The training pipeline: data_load -> train -> eval, and approval only of a model that passes.

The interface of each step is defined once, in its component.yaml; its image comes from
lib/images.lock.json by digest. Steps pass artifacts by path, so that the same images run on
Vertex AI Pipelines, in the local cloud, and by hand.
"""

from concurrent.futures import ThreadPoolExecutor

from kfp import components, dsl
from kfp.dsl.base_component import BaseComponent

from lib import images
from lib.config import Settings
from lib.training import inputs, jobs

# Step -> CPU and memory: 470,000 rows of 11 features need about 1 GB.
RESOURCES = {"data_load": ("2", "4G"), "train": ("4", "8G"), "eval": ("2", "4G"),
             "approve": ("1", "2G")}


def component(settings: Settings, name: str, file: str = "component.yaml") -> BaseComponent:
    """A step of the pipeline: lib/components/<name>/<file>, with its pinned image.

    Raises:
        lib.errors.Needed: the target wants digests, and the image was not pushed yet.
    """
    step = components.load_component_from_file(str(inputs.COMPONENTS / name / file))
    step.component_spec.implementation.container.image = images.reference(
        settings, name, required=settings.target_settings.pinned_images)
    return step


def define(settings: Settings):
    """The pipeline as a function that kfp compiles; its parameters are filled at submission."""
    data_load = component(settings, "data_load")
    train = component(settings, "train")
    evaluate = component(settings, "eval")
    approve = component(settings, "eval", "approve.yaml")

    def training(
        table: str, label_col: str, time_col: str, id_col: str, feature_cols: str,
        gap_days: int, split_ratios: str, sample_percent: float, model_type: str, params: str,
        seed: int, min_roc_auc: float, max_roc_auc: float, positive_rate_low: float,
        positive_rate_high: float, build: str,
    ):
        loaded = data_load(
            table=table, label_col=label_col, time_col=time_col, id_col=id_col,
            feature_cols=feature_cols, gap_days=gap_days, split_ratios=split_ratios,
            sample_percent=sample_percent, seed=seed, build=build)
        trained = train(
            input_dataset=loaded.outputs["output_dataset"], model_type=model_type,
            label_col=label_col, feature_cols=feature_cols, params=params, seed=seed)
        scored = evaluate(
            input_dataset=loaded.outputs["output_dataset"],
            input_model=trained.outputs["output_model"], label_col=label_col,
            min_roc_auc=min_roc_auc, max_roc_auc=max_roc_auc,
            positive_rate_low=positive_rate_low, positive_rate_high=positive_rate_high)
        # Below the gate nothing is approved, and only an approved model is ever registered.
        with dsl.If(scored.outputs["output_verdict"] == "pass", name="gate"):
            approved = approve(
                input_model=trained.outputs["output_model"],
                input_metrics=scored.outputs["output_metrics"])
        for name, task in zip(inputs.STEPS, (loaded, trained, scored, approved), strict=True):
            _set_resources(task, name)

    traced = dsl.pipeline(name=jobs.display_name(settings),
                          description="churn: load, train, evaluate, approve")
    # kfp calls `training` now, and reads the source of the whole stack at each limit: in a thread
    # that stack is short.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(traced, training).result()


def _set_resources(task: dsl.PipelineTask, name: str) -> None:
    """Caching is on: each step depends on its inputs alone, and the table is identified by its
    `build`, so that a rebuilt table is never taken from the cache."""
    cpu, memory = RESOURCES[name]
    task.set_cpu_limit(cpu).set_memory_limit(memory).set_caching_options(True)
    task.set_display_name(name)
