"""How the cost of a modulation layer grows with K, r, the tokens and d.

    python -m benchmarks.modulation_scaling

Forward and backward in float32, from K = 5, r = 64, d = 576 and 512 tokens, one of them changed at a time. The cost
should be linear in K, r and the tokens, and in d a square (of the full shared map) plus a line: those are fitted by
least squares, and the largest distance from the fit is printed. A figure goes beside the results.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table

from hycam.study.figures.style import legend_below, looks, panels, style

from .interleaved import RESULTS, arguments, effort, interleave, machine
from .layer_forms import Layer, Shape

BASE = Shape(576, 2, 256)
FORMS = {"released": "released structure", "eager": "eager", "recompute": "recompute"}
NAMES = {"modules": "specialised modules K", "r": "rank r", "tokens": "tokens", "d": "hidden size d"}
DEGREES = {"modules": 1, "r": 1, "tokens": 1, "d": 2}
POINTS = {
    "modules": [1, 2, 3, 5, 8],
    "r": [16, 32, 64, 96, 128],
    "tokens": [128, 256, 512, 1024, 2048],
    "d": [192, 384, 576, 1024, 1536],
}


@dataclass(frozen=True)
class Curve:
    """One form's milliseconds against one size.

    Args:
        coefficients: of the polynomial fitted to it, the highest power first.
        misfit: the largest distance of a point from the fit, relative to the fit.
    """

    size: str
    form: str
    points: list[int]
    milliseconds: list[float]
    coefficients: list[float]
    misfit: float


def changed(size: str, value: int) -> Shape:
    """The base shape with one size changed."""
    return replace(BASE, seq=value // BASE.batch) if size == "tokens" else replace(BASE, **{size: value})


def fit(size: str, form: str, milliseconds: list[float]) -> Curve:
    points = POINTS[size]
    # Relative distances count, or the largest point alone would decide.
    coefficients = np.polyfit(points, milliseconds, DEGREES[size], w=1 / np.array(milliseconds))
    fitted = np.polyval(coefficients, points)
    misfit = float(np.abs(np.array(milliseconds) / fitted - 1).max())
    return Curve(size, form, points, milliseconds, [float(c) for c in coefficients], misfit)


def draw(curves: list[Curve]) -> None:
    with style():
        figure, axes = panels(NAMES.values(), height=2.5)
        kinds = looks(FORMS.values())
        for ax, size in zip(axes, NAMES, strict=True):
            for curve in (curve for curve in curves if curve.size == size):
                _draw_curve(ax, curve, kinds[FORMS[curve.form]])
            ax.set_ylabel("forward and backward, ms")
            ax.set_xlim(left=0)
            ax.set_ylim(bottom=0)
        legend_below(figure)
        for suffix in ("png", "svg"):
            metadata = {"Date": None} if suffix == "svg" else None
            figure.savefig(RESULTS.with_name(f"modulation_scaling.{suffix}"), dpi=200, metadata=metadata)


def _draw_curve(axes: Axes, curve: Curve, look: dict[str, str]) -> None:
    along = np.linspace(curve.points[0], curve.points[-1], 100)
    axes.plot(along, np.polyval(curve.coefficients, along), color=look["color"], linestyle=look["linestyle"])
    axes.plot(curve.points, curve.milliseconds, color=look["color"], marker=look["marker"], linestyle="")
    axes.plot([], [], label=FORMS[curve.form], **look)


def main() -> None:
    settings = effort(arguments(__doc__).parse_args())
    steps: dict[str, Callable[[], object]] = {}
    for size, values in POINTS.items():
        for value in values:
            layer = Layer(changed(size, value), torch.float32, torch.float32)
            steps |= {f"{size}/{value}/{form}": layer.step(form) for form in FORMS}
    timings = interleave(steps, settings)
    curves = [
        fit(size, form, [1000 * timings[f"{size}/{value}/{form}"].seconds for value in values])
        for size, values in POINTS.items()
        for form in FORMS
    ]
    table = Table(title=f"Milliseconds of a layer against its sizes\n{machine()}")
    for column in ("size", "form", "from", "to", "fit", "farthest point"):
        table.add_column(column, justify="right")
    for curve in curves:
        first, last = (f"{curve.points[at]}: {curve.milliseconds[at]:.1f}" for at in (0, -1))
        powers = ("", " x", " x²")
        terms = (f"{c:.3g}{powers[len(curve.coefficients) - 1 - at]}" for at, c in enumerate(curve.coefficients))
        table.add_row(curve.size, curve.form, first, last, " + ".join(terms), f"{curve.misfit:.1%}")
    Console(width=120).print(table)
    if settings.keeps:
        found = {"machine": machine(), "curves": [asdict(curve) for curve in curves]}
        RESULTS.with_name("modulation_scaling.json").write_text(json.dumps(found, indent=1) + "\n")
        draw(curves)


if __name__ == "__main__":
    main()
