"""The settings of retention."""

from __future__ import annotations

from dataclasses import dataclass, field

from hycam.errors import HycamError, unknown
from hycam.evaluation.retention.chat_prompts import CHAT_PROMPTS
from hycam.evaluation.retention.tasks import RETENTION_TASKS


@dataclass
class RetentionRecipe:
    """What an adapted backbone has kept of what it could do before.

    Args:
        tasks: Tasks it was not adapted to: hellaswag, piqa, arc_easy, sciq, openbookqa, lambada, coqa, squad. None are
            measured by default.
        rows: At most so many rows of each.
        accuracy: Score the wrong choices too, for the accuracy; takes as many times longer as there are choices.
        kl_texts: So many passages of LAMBADA on which KL(base || adapted) is taken; 0 for none.
        kl_replies: So many of the 40 fixed chat prompts, on the base's own replies to which KL is taken; 0 for none.
        batch_size: Rows in a batch.
        at_validations: In a study, measure it at every validation of the training too, and once before the first step.
    """

    tasks: list[str] = field(default_factory=list)
    rows: int = 100
    accuracy: bool = True
    kl_texts: int = 0
    kl_replies: int = 0
    batch_size: int = 8
    at_validations: bool = False

    def __post_init__(self) -> None:
        for name, least in (("rows", 1), ("kl_texts", 0), ("kl_replies", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if value < least:
                raise HycamError(f"retention.{name} is {value}: at least {least} was expected.")
        for name in self.tasks:
            if name not in RETENTION_TASKS:
                raise unknown("retention task", name, RETENTION_TASKS)
        if len(set(self.tasks)) < len(self.tasks):
            raise HycamError(f"retention.tasks names one twice: {', '.join(self.tasks)}.")
        if self.kl_replies > len(CHAT_PROMPTS):
            raise HycamError(f"retention.kl_replies is {self.kl_replies}: there are {len(CHAT_PROMPTS)} chat prompts.")
        if self.at_validations and not self.is_measured:
            raise HycamError("retention.at_validations has nothing to measure: name tasks, kl_texts or kl_replies too.")

    @property
    def is_measured(self) -> bool:
        return bool(self.tasks or self.kl_texts or self.kl_replies)
