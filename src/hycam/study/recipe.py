"""The study file: every setting of a study, as typed dataclasses. ``--help`` shows their docstrings."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

from hycam.data.recipe import DataRecipe
from hycam.errors import HycamError, nearest
from hycam.evaluation.retention.recipe import RetentionRecipe
from hycam.training.recipe import EvaluationRecipe, OptimizerRecipe, TrainingRecipe

STUDY_FILE = "study.yaml"
"""What a study's settings are called in its folder."""


@dataclass
class StudyMethod:
    """One method of a study.

    Args:
        name: A method's name, or ``base`` for the unadapted backbone.
        config: Fields of the method's PEFT configuration.
        learning_rate: Peak learning rate; null means the sweep's best if ``learning_rates_from`` names one, else the
            study's, else the method's default.
        optimizer: How its weights are updated.
        variant_of: In a sweep, the label of the method of which this is another setting (such as another multiplier):
            its trials count as trials of that method.
    """

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    learning_rate: float | None = None
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    variant_of: str | None = None


@dataclass
class SweepRecipe:
    """A search for each method's learning rate, on the validation part; the same trials for every method.

    Args:
        learning_rates: The grid, half a decade apart (1e-4, 3e-4, 1e-3, ...). None: no search.
        most_trials: A best value at an edge extends the grid, up to this many learning rates per method.
    """

    learning_rates: list[float] = field(default_factory=list)
    most_trials: int = 8

    def __post_init__(self) -> None:
        if any(not rate > 0 for rate in self.learning_rates):
            raise HycamError(f"sweep.learning_rates are {self.learning_rates}: numbers above 0 were expected.")


@dataclass
class ExecutorRecipe:
    """Where the cells run.

    Args:
        name: ``local`` runs each cell in a process on this machine; ``ray`` as a task on a Ray cluster.
        workers: For ``local``: how many cells run at once; they share a GPU if there is one.
        threads: For ``local``: CPU threads per cell; null divides the cores among the workers.
        address: For ``ray``: the cluster's address; null means ``RAY_ADDRESS``, or a new cluster on this machine.
        cpus: For ``ray``: CPUs per cell.
        gpus: For ``ray``: GPUs per cell; with a fraction several cells share one.
        memory_gb: For ``ray``: memory per cell; null requests none.
    """

    name: Literal["local", "ray"] = "local"
    workers: int = 1
    threads: int | None = None
    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    memory_gb: float | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise HycamError(f"executor.{name} is {value}: a number above 0 was expected.")
        for name in ("cpus", "gpus", "memory_gb"):
            value = getattr(self, name)
            if value is not None and (value < 0 or (name != "gpus" and value == 0)):
                raise HycamError(f"executor.{name} is {value}: a number above 0 was expected.")
        for name in ("cpus", "gpus"):
            value = getattr(self, name)
            if value > 1 and value != int(value):
                raise HycamError(f"executor.{name} is {value}: above 1 a whole number was expected.")

    @property
    def at_once(self) -> int:
        """How many cells run at once, as far as that is known beforehand; on a cluster it is not."""
        return self.workers if self.name == "local" else 1


@dataclass
class StudyRecipe:
    """Methods x backbones x folds x seeds x settings; each combination is a cell.

    Args:
        title: Title of the report.
        output: The folder of the study: ``cells/`` with a small JSON file for each cell that ended, and ``report/``.
        runs: The folder of the run folders (adapters, checkpoints, predictions); null means ``OUTPUT/runs``.
        backbones: A short name, a folder or a hub id, by the label shown in tables.
        trust_remote_code: Whether Python code that comes with a backbone may run; look at it first.
        methods: What is compared, by the label shown in tables.
        data: What to train, validate and test on.
        folds: Folds of the data, or replicates of a disjoint split.
        seeds: Training seeds: they set the adapter's start, the order of the rows and the noise.
        seed_per_fold: Whether the first seed is for the first fold, the second for the second and so on, so that the
            spread over folds includes the seed's; by default every fold is trained with every seed.
        vary: Values of further recipe fields, by the field's dotted name, such as
            ``data.train_rows: [32, 128]`` or ``method.config.num_specialized: [1, 5]``. Every combination is a cell.
        single_tasks: Also train every method on each task alone, to measure interference between tasks.
        training: How each method is trained.
        evaluation: How each method is evaluated.
        retention: How the loss of earlier abilities is measured.
        sweep: A search for learning rates; it makes the study a sweep.
        learning_rates_from: The study file of a finished sweep; each method takes its best learning rate from there.
        reference: The label of the method that is compared with every other.
        primary: The labels of the methods that the study's question is about: over all tasks, the reference against
            each of these is the primary family of tests, with its own correction, by which the verdict goes; all other
            comparisons are secondary. State it before the study runs. Null means the adapters that are neither HyCAM
            nor a variant of it.
        note: What a reader has to know beside the verdict; the report shows it there.
        executor: Where the cells run.
        tables: Names of the tables to report; by default all that the study's cells can fill.
        texts: Whether the report shows texts of the data and answers to them; set it to false for a report that may
            go where the data may not. Each row's scores stay.
        rows_shown: How many rows of each task the report shows with all answers side by side; fewer where each has
            many answers.
    """

    title: str = "Study"
    output: str = "studies/study"
    runs: str | None = None
    backbones: dict[str, str] = field(default_factory=lambda: {"SmolLM2 135M": "smollm2-135m"})
    trust_remote_code: bool = False
    methods: dict[str, StudyMethod] = field(default_factory=dict)
    data: DataRecipe = field(default_factory=DataRecipe)
    folds: list[int] = field(default_factory=lambda: [0])
    seeds: list[int] = field(default_factory=lambda: [2333])
    seed_per_fold: bool = False
    vary: dict[str, list[Any]] = field(default_factory=dict)
    single_tasks: bool = False
    training: TrainingRecipe = field(default_factory=TrainingRecipe)
    evaluation: EvaluationRecipe = field(default_factory=EvaluationRecipe)
    retention: RetentionRecipe = field(default_factory=RetentionRecipe)
    sweep: SweepRecipe = field(default_factory=SweepRecipe)
    learning_rates_from: str | None = None
    reference: str = "HyCAM"
    primary: list[str] | None = None
    note: str = ""
    executor: ExecutorRecipe = field(default_factory=ExecutorRecipe)
    tables: list[str] = field(default_factory=list)
    texts: bool = True
    rows_shown: int = 20

    def __post_init__(self) -> None:
        if self.rows_shown < 1:
            raise HycamError(f"rows_shown is {self.rows_shown}: the report shows at least one row of each task.")
        for name in ("backbones", "folds", "seeds"):
            if not getattr(self, name):
                raise HycamError(f"The study names no {name[:-1]}: {name} is empty.")
        for name in ("folds", "seeds"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise HycamError(f"{name} names one twice: {values}.")
        if self.seed_per_fold and len(self.seeds) != len(self.folds):
            raise HycamError(
                f"seed_per_fold needs a seed for each fold: seeds has {len(self.seeds)}, folds has {len(self.folds)}."
            )
        for name, values in self.vary.items():
            if not isinstance(values, list) or not values:
                raise HycamError(f"vary.{name} is {values!r}: a list of values was expected.")
        if self.sweep.learning_rates and self.evaluation.part != "validation":
            raise HycamError("A sweep chooses learning rates: set evaluation.part to validation, never to test.")
        if self.sweep.learning_rates and (self.vary or self.single_tasks):
            raise HycamError(
                "A sweep varies the learning rate alone: remove vary and single_tasks. List other settings of a method "
                "as methods of their own, with variant_of."
            )
        if self.sweep.learning_rates and self.learning_rates_from:
            raise HycamError(
                "sweep and learning_rates_from exclude each other: a study either searches rates or takes them."
            )
        if self.single_tasks and self.training.max_steps is not None:
            raise HycamError(
                "single_tasks needs training.epochs instead of training.max_steps: a task's rows must be trained on as "
                "often alone as together."
            )
        for label in self.primary or []:
            if label not in self.methods or label == self.reference:
                raise HycamError(
                    f'primary names "{label}", but it lists the methods of this study that {self.reference} is '
                    f"compared with.{nearest(label, [name for name in self.methods if name != self.reference])}"
                )
        for label, entry in self.methods.items():
            if entry.variant_of is not None and entry.variant_of not in self.methods:
                raise HycamError(
                    f'methods.{label}.variant_of names "{entry.variant_of}", which is not a method of this study.'
                )

    @property
    def places(self) -> list[tuple[int, int]]:
        """The seed and the fold of each training, all folds of a seed before the next seed."""
        pairs = zip(self.seeds, self.folds, strict=True) if self.seed_per_fold else product(self.seeds, self.folds)
        return list(pairs)
