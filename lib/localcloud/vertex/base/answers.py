"""Which of its ways an answer takes, where Google may choose or where no source says what it does.

Every such place is a choice point, in POINTS. `usual` takes the first way of each; `strange` one
of the others wherever the walk can still pass; `random:SEED` draws. Any point can be set by name:
`usual,pages=one`. The choices of a seed depend on nothing but the seed, the point, what it is
about, and how often that was asked before.
"""

import random
import threading
from collections import Counter
from dataclasses import dataclass

USUAL, STRANGE, RANDOM = "usual", "strange", "random"


@dataclass(frozen=True)
class Point:
    """One choice.

    Attributes:
        freedom: what Google may choose, or the assumption that nobody has verified.
        ways: the usual one first.
        once: chosen once, not for each answer.
        rare: the other ways come only the first time that something is asked (strange), or one
            time in ten (random).
        rules: of the ledger that it leaves open, besides the status of a refusal.
        ends: under the other ways a walk cannot pass; it must stop with the right message.
            `strange` keeps the usual one, and one seed in ten takes another.
    """

    freedom: str
    ways: tuple[str, ...]
    once: bool = False
    rare: bool = False
    ends: bool = False
    rules: tuple[str, ...] = ()


POINTS = {
    # Every answer
    "unknown_fields": Point(
        "a service may send fields that the installed package does not know", ("none", "some")),
    "project": Point("a name has the project's number or its id", ("number", "id")),
    "defaults": Point(
        "a field with its default value may be left out, sent, or null", ("left out", "sent",
                                                                          "null")),
    "labels": Point("a service may add labels of its own", ("as sent", "more")),
    "refusal": Point(
        "the status of a refusal, where no source has it", ("as assumed", "another status")),
    "busy": Point(
        "any call may be refused for a moment, a 503 even after it took effect",
        ("no", "429", "503", "503 after"), rare=True),
    # Lists
    "order": Point("a list without order_by has any order", ("of creation", "reversed", "mixed"),
                   once=True),
    "pages": Point("a page may have fewer resources than asked for", ("as asked", "one")),
    # Operations
    "operation_name": Point(
        "an operation is named below its resource or below the location",
        ("resource", "location")),
    "operation_polls": Point("an operation takes any time", ("0", "1", "3")),
    "operation_types": Point(
        "metadata and result have types of v1, of v1beta1, or newer ones",
        ("v1", "v1beta1", "unknown")),
    "operation_result": Point(
        "the result of a create or update is a stub, or the whole resource", ("stub", "whole")),
    # Consistency
    "visible": Point(
        "what was just made is found at once, or after some more calls", ("at once", "late")),
    "store_state": Point(
        "a store is STABLE when its operation ends, or later; a state may be unknown here",
        ("STABLE", "UPDATING", "unknown")),
    "job_state": Point(
        "a job may have a state that the package does not know", ("known", "unknown")),
    "grant": Point("a grant counts at once, or after some minutes", ("at once", "late"),
                   rules=("online.own-account-access",)),
    # Values
    "nulls": Point(
        "a null feature is left out, has no value, or an empty one",
        ("left out", "no value", "empty value"), once=True, rules=("sync.null",)),
    "feature_timestamp": Point(
        "feature_timestamp is among the features or not", ("sent", "missing"), once=True,
        rules=("sync.timestamps",)),
    "nothing_served": Point(
        "for an unknown entity, or before the first sync, a fetch answers 404, 400 or no features",
        ("404", "400 before the first sync", "no features"), once=True,
        rules=("sync.never-synced",)),
    "dense": Point(
        "`dense` is honoured, or the default rule serves the newest value that is not null",
        ("honoured", "ignored"), once=True, ends=True),
    "sync_result": Point(
        "a sync that succeeded has a start, a summary and status 0, or leaves them out",
        ("sent", "left out"), rules=("sync.ended",)),
    "deployed_model": Point(
        "a deployed model is named without its version, or with it", ("model", "model@version")),
}


def table() -> str:
    """The choices as a Markdown table."""
    rows = ["| Choice | What is open | Ways, the usual one first |", "|---|---|---|"]
    rows += [f"| `{name}` | {point.freedom}{' (chosen once)' if point.once else ''} | "
             f"{', '.join(point.ways)} |" for name, point in POINTS.items()]
    return "\n".join(rows) + "\n"


class Answers:
    """The choices of one local cloud; usable from any thread."""

    def __init__(self, given: str = USUAL):
        """
        Raises:
            ValueError: `given` is not of the form above, or names an unknown point or way.
        """
        mode, *settings = given.split(",")
        self.mode, _, seed = mode.partition(":")
        if self.mode not in (USUAL, STRANGE, RANDOM) or (self.mode == RANDOM) != seed.isdigit():
            raise ValueError(f"{given!r}: usual, strange or random:SEED is expected")
        self._seed, self._lock = seed, threading.Lock()
        self._asked: Counter[tuple[str, str]] = Counter()
        self._fixed = dict(setting.partition("=")[::2] for setting in settings)
        for point, way in self._fixed.items():
            if point not in POINTS or way not in POINTS[point].ways:
                raise ValueError(f"{given!r}: {point}={way} is none of the choices")

    def take(self, name: str, about: str = "") -> str:
        """The way of a point for this answer; about: what the answer is about, such as an RPC."""
        point = POINTS[name]
        about = "" if point.once else about
        with self._lock:
            count = self._asked[name, about]
            self._asked[name, about] += not point.once
        if name in self._fixed:
            return point.ways[0] if point.rare and count else self._fixed[name]
        usual, *others = point.ways
        if self.mode == USUAL:
            return usual
        if self.mode == STRANGE:
            if point.ends or (point.rare and count):
                return usual
            return others[(len(about) + count) % len(others)]
        # Each seed leaves some points alone, so that the failures of one do not hide others'.
        active = random.Random(f"{self._seed} {name}").random()
        if active >= (0.1 if point.ends else 0.7):
            return usual
        draw = random.Random(f"{self._seed} {name} {about} {count}")
        if point.rare and draw.random() >= 0.1:
            return usual
        return draw.choice(others if point.rare or point.once else point.ways)

    def draw(self, *about: object) -> random.Random:
        """For orders that depend on the seed alone."""
        return random.Random(f"{self._seed} {about}")
