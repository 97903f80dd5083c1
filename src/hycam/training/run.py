"""The run folder: the resolved recipe, the environment, metrics, checkpoints and the adapter of one run.

::

    RUN/recipe.yaml         every setting, defaults included
    RUN/environment.json    versions, commit, machine, fingerprint of the data
    RUN/metrics.jsonl       one line each time something was logged
    RUN/checkpoints/        see `hycam.training.checkpoints`, if the recipe asks for any
    RUN/adapter/            the adapter, as PEFT saves it, and a manifest of its files
    RUN/model/              in its place after full fine-tuning: the model and its tokenizer
    RUN/training.json       the summary, which marks the training as complete
    RUN/evaluation/PART/    metrics.json and predictions.jsonl of `hycam evaluate`
    RUN/evaluation/         retention.json, where retention was measured with it
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import yaml
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hycam import backbones
from hycam.adapters import check_adapter, check_embeddings, saved_config
from hycam.errors import HycamError
from hycam.files import clear_unfinished, is_unfinished, whole_folder, write_whole
from hycam.lock import OWN_FILES
from hycam.machine import describe
from hycam.methods import method
from hycam.training.checkpoints import MANIFEST, Checkpoints, damage, seal
from hycam.training.parse import parse_recipe
from hycam.training.recipe import Recipe
from hycam.training.saving import save_weights

BASE = "base"
"""The method's name for the plain backbone, which can be evaluated and asked, but not trained."""

# What may change when a run is continued: it has no effect on what is trained, or says how to go on after a divergence.
_FREE = (
    "output",
    "evaluation",
    "training.log_every",
    "training.report_to",
    "training.save_every",
    "training.on_divergence",
    "training.divergence_margin",
    "training.max_skipped_steps",
)


@dataclass(frozen=True)
class Run:
    """One run folder."""

    folder: Path

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    def evaluation(self, part: str) -> Path:
        return self.folder / "evaluation" / part

    def check(self, recipe: Recipe) -> None:
        """Raises HycamError if the folder holds a run of another recipe, or something else. Writes nothing."""
        if (self.folder / "recipe.yaml").exists():
            if not self._holds_work():
                return
            difference = _first_difference(asdict(self.recipe()), asdict(recipe))
            if difference:
                name, old, new = difference
                raise HycamError(
                    f"{self.folder} holds a run of another recipe: {name} is {old!r} there and {new!r} now. "
                    "Name another folder with --output, or remove that one."
                )
        elif self.folder.is_dir() and any(map(_is_foreign, self.folder.iterdir())):
            raise HycamError(f"{self.folder} holds something that is not a run. Name another folder with --output.")
        elif self.folder.exists() and not self.folder.is_dir():
            raise HycamError(f"{self.folder} is a file. Name a folder with --output.")

    def _holds_work(self) -> bool:
        """Whether anything was trained or evaluated here."""
        kept = (self.adapter, self.model, self.folder / "training.json", self.folder / "evaluation")
        return any(path.exists() for path in kept) or self.last_checkpoint() is not None

    def begin(self, recipe: Recipe, data: str | None = None, processes: int = 1) -> None:
        """Makes the folder for this recipe; a complete run is left as it is.

        Args:
            recipe: what is to be run.
            data: the fingerprint of its data; None if none are trained on.
            processes: how many train together.

        Raises:
            HycamError: as :meth:`check`; there is a checkpoint of other data or of another number of processes; or the
                folder cannot be written.
        """
        self.check(recipe)
        complete = self.summary()
        if complete is not None:
            if data not in (None, complete["data"]):
                raise HycamError(
                    f"{self.folder} is complete, and its data are not those that the recipe gives now (a file has "
                    "changed since). Bring the old data back, or name another folder with --output."
                )
            return
        environment = self.folder / "environment.json"
        if self.last_checkpoint() is not None and environment.exists():
            begun = {"data": data, "processes": 1, **_read_object(environment)}  # older versions lack them
            if begun["processes"] != processes:
                raise HycamError(
                    f"{self.folder} was begun with {_processes(begun['processes'])} and would go on with "
                    f"{_processes(processes)}, which have other batches. Start as many as before, or name another "
                    "folder with --output."
                )
            if begun["data"] != data:
                raise HycamError(
                    f"The data are not those that {self.folder} was begun with (a file has changed since), so it "
                    "cannot be continued. Bring the old data back, or name another folder with --output."
                )
        for folder in (self.adapter, self.model):
            clear_unfinished(folder)
        write_whole(self.folder / "recipe.yaml", yaml.safe_dump(asdict(recipe), sort_keys=False))
        write_whole(environment, json.dumps({**describe(), "data": data, "processes": processes}, indent=2) + "\n")

    def recipe(self) -> Recipe:
        """The resolved recipe; raises HycamError if this is not a run folder."""
        path = self.folder / "recipe.yaml"
        if not path.exists():
            raise HycamError(f"{self.folder} is not a run folder: it has no recipe.yaml. `hycam train` makes one.")
        return parse_recipe(Recipe, [str(path)])

    def last_checkpoint(self) -> str | None:
        """The newest finished checkpoint, which may have been damaged since."""
        kept = Checkpoints(self.checkpoints)
        steps = kept.steps()
        return str(kept.at(steps[-1])) if steps else None

    def finish(
        self,
        model: PeftModel | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        summary: dict[str, Any],
        state: dict[str, Tensor] | None = None,
    ) -> None:
        """Saves what was trained, and then the summary; ``state`` has the weights if the model is sharded."""
        if isinstance(model, PeftModel):
            with whole_folder(self.adapter) as folder:
                save_weights(model, folder, state)
                seal(folder)
        else:
            with whole_folder(self.model) as folder:
                save_weights(model, folder, state)
                tokenizer.save_pretrained(str(folder))
                seal(folder)
        write_whole(self.folder / "training.json", json.dumps(summary, indent=2) + "\n")

    def summary(self) -> dict[str, Any] | None:
        """The summary of a complete run, else None; raises HycamError if the file is damaged."""
        path = self.folder / "training.json"
        if not path.exists():
            return None
        found = _read_object(path)
        lacking = [name for name in ("data", "steps", "tokens", "seconds", "validation") if name not in found]
        if lacking or not isinstance(found["validation"], dict) or "eval_loss" not in found["validation"]:
            raise HycamError(f"{path} is damaged: it lacks {', '.join(lacking) or 'validation.eval_loss'}. {_AGAIN}")
        return found

    def damage(self) -> str | None:
        """What is wrong with the saved weights, as a sentence; None if they are as they were saved.

        Without a manifest nothing is checked. The configuration may be edited.
        """
        for folder in (self.adapter, self.model):
            if (folder / MANIFEST).exists() and (wrong := damage(folder, "*.safetensors")):
                return f"{folder} is damaged: {wrong}."
        return None

    def reopen(self) -> None:
        """Marks the run as incomplete, so that its weights are made again."""
        (self.folder / "training.json").unlink()

    def load(self, changes: Mapping[str, Any] | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The adapted (or fully fine-tuned) backbone in evaluation mode, and its tokenizer.

        Args:
            changes: fields of the adapter's configuration to change after training, such as ``routing``.

        Raises:
            HycamError: the run is not finished, or holds an adapter of another method; or a change does not work.
        """
        recipe = self.recipe()
        device, dtype = recipe.training.torch_device(), recipe.training.torch_dtype()
        trusted = recipe.trust_remote_code
        tokenizer = backbones.load_tokenizer(recipe.backbone, trusted)
        if recipe.method.name == BASE:
            return backbones.load(recipe.backbone, dtype, device, trusted, recipe.quantization), tokenizer
        method(recipe.method.name).config({**recipe.method.config, **(changes or {})})  # raises if a change is wrong
        config = method(recipe.method.name).config(recipe.method.config)
        if not (self.model / "config.json" if config is None else self.adapter / "adapter_config.json").exists():
            kind = "model" if config is None else "adapter"
            raise HycamError(f"{self.folder} has no {kind} yet; `hycam train` with its recipe finishes it.")
        if wrong := self.damage():
            raise HycamError(f"{wrong} `hycam train` with its recipe makes it again.")
        if config is None:
            return backbones.load(str(self.model), dtype, device, trusted), tokenizer
        saved = replace(saved_config(self.adapter, config), **(changes or {}))
        besides = check_adapter(self.adapter, saved, backbones.config(recipe.backbone, trusted), trusted)
        base = backbones.load(recipe.backbone, dtype, device, trusted, recipe.quantization)
        check_embeddings(self.adapter, besides, base)
        try:
            adapted = PeftModel.from_pretrained(base, str(self.adapter), config=saved).eval()
        except (RuntimeError, KeyError) as error:  # what PEFT alone can check, such as the ranks of AdaLoRA
            raise HycamError(f"{self.adapter} does not fit {recipe.backbone}: {str(error).splitlines()[0]}") from error
        # A PeftModel forwards to the model that it wraps.
        return cast(PreTrainedModel, adapted), tokenizer


_AGAIN = "Delete it, and `hycam train` with the same recipe goes on from the last checkpoint."


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise HycamError(f"{path} is damaged: {error}. {_AGAIN}") from error
    if not isinstance(found, dict):
        raise HycamError(f"{path} is damaged: an object was expected. {_AGAIN}")
    return found


def _processes(number: Any) -> str:
    return "one process" if number == 1 else f"{number} processes"


def _is_foreign(path: Path) -> bool:
    """Whether a run that was killed before it wrote its recipe cannot have left this."""
    return path.name not in OWN_FILES and not is_unfinished(path)


def _first_difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> tuple[str, Any, Any] | None:
    for name in {**old, **new}:
        if prefix + name in _FREE:
            continue
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            difference = _first_difference(before, after, f"{prefix}{name}.")
            if difference:
                return difference
        elif before != after:
            return f"{prefix}{name}", before, after
    return None
