"""The figures of a report, by name."""

from __future__ import annotations

from hycam.study.figures.adapters import draw_modulation, draw_representations
from hycam.study.figures.curves import draw_learning_rates, draw_task_loss
from hycam.study.figures.differences import draw_forest, draw_size_trend
from hycam.study.figures.interference import draw_interference
from hycam.study.figures.perplexities import draw_cost, draw_data_ladder, draw_num_specialized
from hycam.study.figures.retention import draw_frontier, draw_frontier_training
from hycam.study.figures.routing import draw_expert_load, draw_mutual_information, draw_routing
from hycam.study.figures.style import Drawing, save

__all__ = ["FIGURES", "Drawing", "save"]

FIGURES: dict[str, Drawing] = {
    "forest": draw_forest,
    "learning_rates": draw_learning_rates,
    "task_loss": draw_task_loss,
    "num_specialized": draw_num_specialized,
    "data_ladder": draw_data_ladder,
    "size_trend": draw_size_trend,
    "cost": draw_cost,
    "frontier": draw_frontier,
    "frontier_training": draw_frontier_training,
    "interference": draw_interference,
    "routing": draw_routing,
    "expert_load": draw_expert_load,
    "mutual_information": draw_mutual_information,
    "modulation": draw_modulation,
    "representations": draw_representations,
}
