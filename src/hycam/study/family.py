"""The two families of a study's comparisons: the primary one answers its question, all else is secondary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hycam.methods import METHODS
from hycam.study.cells import Cell
from hycam.study.recipe import StudyRecipe
from hycam.study.significance import MACRO
from hycam.training.run import BASE

PRIMARY, SECONDARY = "primary", "secondary"


@dataclass(frozen=True)
class Primary:
    """The primary family: over all tasks, one method against each of some others, on every backbone.

    Attributes:
        reference: the label of the one.
        against: the labels of the others.
        settings: the values of the varied fields; comparisons at other values are secondary.
    """

    reference: str
    against: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def family(self, method: str, against: str, task: str, settings: Mapping[str, Any]) -> str:
        """The family of a comparison of ``method`` with ``against``: ``PRIMARY`` or ``SECONDARY``."""
        mine = method == self.reference and against in self.against and task == MACRO and settings == self.settings
        return PRIMARY if mine else SECONDARY


def primary_family(study: StudyRecipe, cells: Sequence[Cell]) -> Primary:
    """What the study states: its reference (the first method if it lacks that one) against ``study.primary``, by
    default its PEFT baselines, at the first value of each varied field."""
    reference = study.reference if study.reference in study.methods else next(iter(study.methods), study.reference)
    stated = peft_baselines(study) if study.primary is None else study.primary
    settings = next((cell.settings for cell in cells if cell.method == reference), {})
    return Primary(reference, [label for label in stated if label != reference], dict(settings))


def is_hycam(study: StudyRecipe, label: str) -> bool:
    """Whether a method is HyCAM or one of its variants."""
    name = study.methods[label].name
    return name == "hycam" or name.startswith("hycam-")


def peft_baselines(study: StudyRecipe) -> list[str]:
    """The labels of the adapters other than HyCAM and its variants."""
    names = {label: entry.name for label, entry in study.methods.items() if not is_hycam(study, label)}
    return [
        label for label, name in names.items()
        if name != BASE and not (name in METHODS and METHODS[name].trains_backbone)
    ]  # fmt: skip
