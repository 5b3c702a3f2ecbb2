"""The tasks of one run of a pipeline, and what they take and give."""

from dataclasses import dataclass, field

from google.protobuf import json_format
from google.protobuf.message import Message


@dataclass
class Values:
    """Parameters and artifacts by name."""

    parameters: dict[str, object] = field(default_factory=dict)
    artifacts: dict[str, Message] = field(default_factory=dict)


@dataclass
class Node:
    """A task of the pipeline or of a dag in it; `path` are the task keys from the root."""

    path: tuple[str, ...]
    task: dict
    component: dict
    detail: Message
    inputs: Values = field(default_factory=Values)
    outputs: Values = field(default_factory=Values)

    @property
    def is_dag(self) -> bool:
        return "dag" in self.component

    @property
    def state(self) -> int:
        return self.detail.state


def spec_of(job: Message) -> dict:
    return json_format.MessageToDict(job.pipeline_spec)


def parameters_of(job: Message) -> dict:
    values = job.runtime_config.parameter_values
    return {name: json_format.MessageToDict(value) for name, value in values.items()}
