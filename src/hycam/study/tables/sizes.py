"""Tables 3 and 4: backbones of several sizes, and how the gain over the best PEFT baseline grows with them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import stats

from hycam.study.comparisons import Comparison
from hycam.study.plan import Plan
from hycam.study.tables.gains import perplexity_gains
from hycam.study.tables.over_folds import BLANK, NONE, need, need_results
from hycam.study.tables.overall import overall_notes, overall_rows, overall_table
from hycam.study.tables.scores import scores
from hycam.study.tables.table import Entry, Table

_FEWEST = 3  # a line through two sizes has no interval


def sizes(plan: Plan, comparisons: list[Comparison]) -> Table:
    """Methods x sizes, with the gain and its trend."""
    need_results(plan)
    trained = {one.backbone: one.training["total_parameters"] for one in plan.results.done if one.training}
    parameters = {name: trained[name] for name in plan.study.backbones if name in trained}
    need(len(parameters) > 1, "A comparison of sizes needs trained cells on two backbones at least.")
    rows, trends = overall_rows(plan, comparisons), []
    for whose, gains in perplexity_gains(plan).items():
        row = [Entry(f"{whose}, %")]
        for backbone in plan.study.backbones:
            value = gains.get(backbone)
            row += [NONE if value is None else Entry(f"{value:+.2f}", value), *[BLANK] * (len(scores(plan)) - 1)]
        rows.append(row)
        points = [(count, gains[name]) for name, count in parameters.items() if name in gains]
        trends.append(f"{whose}: {trend(points)}.")
    note = " ".join([
        *overall_notes(plan),
        "Gain: (b - x) / b of the perplexities x and b, b that of the best PEFT baseline on the backbone. Its trend is "
        "the slope of a least-squares line over the logarithm of the size, with the 95 % interval.",
        *trends,
        f"Parameters: {', '.join(f'{name} {count / 1e9:.3g}B' for name, count in parameters.items())}.",
    ])  # fmt: skip
    return overall_table(plan, "sizes", "Backbones of several sizes, over all tasks", rows, note)


def trend(points: Sequence[tuple[int, float]]) -> str:
    """The slope of gains (percent) against the decimal logarithm of the number of parameters they go with; in words."""
    sizes_known = len({size for size, _ in points})
    if sizes_known < _FEWEST:
        return f"the trend is undefined with {sizes_known} of the {_FEWEST} sizes that it takes"
    fit = stats.linregress([math.log10(size) for size, _ in points], [gain for _, gain in points])
    half = float(stats.t.ppf(0.975, len(points) - 2)) * fit.stderr
    interval = f"[{fit.slope - half:+.2f}, {fit.slope + half:+.2f}]"
    return f"{fit.slope:+.2f} percentage points for ten times the size {interval}, {sizes_known} sizes"
