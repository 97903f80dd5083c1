"""The figures of a report, by name. They need the ``plots`` extra."""

from __future__ import annotations

from hycam.study.figures.cost import draw_cost
from hycam.study.figures.drawing import Drawing, save
from hycam.study.figures.forest import draw_forest
from hycam.study.figures.frontier import draw_frontier
from hycam.study.figures.frontier_training import draw_frontier_training
from hycam.study.figures.interference import draw_interference
from hycam.study.figures.learning_rates import draw_learning_rates
from hycam.study.figures.modulation import draw_modulation
from hycam.study.figures.perplexity_against import draw_data_ladder, draw_num_specialized
from hycam.study.figures.representations import draw_representations
from hycam.study.figures.routing import draw_expert_load, draw_mutual_information, draw_routing
from hycam.study.figures.size_trend import draw_size_trend
from hycam.study.figures.task_loss import draw_task_loss

__all__ = ["FIGURES", "Drawing", "save"]

_PERPLEXITY = (
    "Perplexity is exp of the mean over tasks of the NLL per response token. Points are means over the folds and seeds "
    "that everything in a panel has; the band is the range from the smallest to the largest of them."
)

FIGURES: dict[str, Drawing] = {
    "forest": Drawing(
        "Paired differences",
        "Relative difference of perplexity between two methods on the same folds, with 95 % intervals: of the t test "
        "over folds or replicates (diamonds; corrected for overlapping folds), and of a paired bootstrap over rows, "
        "which is about these trained adapters and not about the method (circles). The shaded margin is what counts "
        "as a tie. Numbers are of the t test where there is one; verdicts are after Holm's correction over all "
        "comparisons.",
        draw_forest,
    ),
    "learning_rates": Drawing(
        "Learning rates",
        "The mean over tasks of the NLL per response token after training at each peak learning rate; the best of "
        "each method is ringed. Rates more than half a nat above the best of all, and those at which training "
        "diverged (hollow), stand above the upper edge.",
        draw_learning_rates,
    ),
    "task_loss": Drawing(
        "Task loss over training (the paper's Figure 5)",
        "Training loss without the balance term: the mean over tasks, all weighing the same, of each task's NLL per "
        "response token since the last line of the log; a task that no batch in between held is interpolated. Lines "
        "are means over seeds and folds, bands their range. Methods of one seed see the same rows in the same order, "
        "hence the ups and downs that they share.",
        draw_task_loss,
    ),
    "num_specialized": Drawing(
        "Perplexity and the number of specialised modules (the paper's Figure 3)",
        f"{_PERPLEXITY} The paper shows a curve without numbers, so its figures are not drawn beside these.",
        draw_num_specialized,
    ),
    "data_ladder": Drawing("Perplexity and the amount of data", _PERPLEXITY, draw_data_ladder),
    "size_trend": Drawing(
        "Gain and the size of the backbone",
        "By how much the reference's perplexity is lower than that of another method, all tasks weighing the same, "
        "with the 95 % interval of the comparison; points are set apart sideways so that intervals can be told "
        "apart. The line is the least-squares regression on the logarithm of the size, from three sizes on.",
        draw_size_trend,
    ),
    "cost": Drawing(
        "Perplexity and cost",
        "Each method's perplexity on unseen rows against the parameters that it trains and the seconds that training "
        "took on this machine (validation included). Points are means over the folds and seeds that all methods "
        "have; bars are their range.",
        draw_cost,
    ),
    "frontier": Drawing(
        "Gain and forgetting",
        "Gain: log-perplexity of the backbone as it is minus that of the adapted one, on the same rows. Forgetting: "
        "what the gold continuations of the retention tasks cost more than before, in bits per byte, the mean over "
        "these tasks. A path goes along a method's learning rates, from the smallest (white), which forgets least "
        "whatever the method: methods are compared by their paths, not by single points.",
        draw_frontier,
    ),
    "frontier_training": Drawing(
        "Gain and forgetting over training",
        "A path goes through the validations of a training, from the backbone as it is, which has gained and forgotten "
        "nothing. Gain: the loss of the validation part before the first step minus that of the step. Forgetting: what "
        "the gold continuations of the retention tasks cost more than before, in bits per byte, the mean over these "
        "tasks.",
        draw_frontier_training,
    ),
    "interference": Drawing(
        "Interference between tasks",
        "NLL per response token of the task in a column after training on the task of a row alone, minus that after "
        "training on the column's own task alone; above 0 is worse. The last row is trained on all tasks together: "
        "below 0 the tasks help one another there, above 0 they are in each other's way. Each task has the same rows "
        "alone and together. Colours end at the ninth decile.",
        draw_interference,
    ),
    "routing": Drawing(
        "Routing by task and layer",
        "Mean probabilities of the router over the response tokens of each task, without noise, as in evaluation; "
        "1/K is what a router that ignores its input gives. Of one training: the modules of another have another "
        "order.",
        draw_routing,
    ),
    "expert_load": Drawing(
        "Load of the modules over training",
        "The share of the routing probability that each specialised module gets, averaged over tokens, layers and "
        "the steps since the last line of the log, Gumbel noise included. Of one training.",
        draw_expert_load,
    ),
    "mutual_information": Drawing(
        "What the routing says about the task",
        "Mutual information between task and module in each layer, every task weighing the same, from the mean "
        "routing probabilities of the tasks. 0 bits: all tasks are routed alike. Lines are means over folds and "
        "seeds, bands their range.",
        draw_mutual_information,
    ),
    "modulation": Drawing(
        "Modulation of one layer (the paper's Figure 4)",
        "The factors by which the adapter scales each feature of the attention output, minus 1, for every token of a "
        "response: red amplifies, blue suppresses. SiLU is never below -0.28, so the sum is never below -0.56. "
        "Colours end at 99.5 % of the values. Features are sorted by their mean over these tokens, and neighbours "
        "averaged where there are many; a middle dot stands for a space.",
        draw_modulation,
    ),
    "representations": Drawing(
        "Representations with the adapter on and off (the paper's Figure 2)",
        "One t-SNE of the outputs of the value projection of the middle layer, with and without the adapter "
        "together; a place is the mean over the response of a row. Beside it the mean distance to the ten nearest "
        "places of the same condition, of the vectors before the projection, standardised over both conditions: "
        "t-SNE does not keep distances.",
        draw_representations,
    ),
}
