"""Makes the picture of docs/scaling.md: `python docs/make_scaling_picture.py`, seconds on one core.

Simulated trials of a law that is known, with 2 % noise: five sizes, five sets of people, two seeds each. The largest
are held out for the back-test, as `headway scaling fit` does.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from trainer.scaling import Law, Study, Table, analyse, interval

TRUTH = Law("samples", *(np.array([value]) for value in (0.05, 12.0, 1.2, 0.3, 0.4, 0.0)))
NOISE, SEEDS, AHEAD, SEED = 0.02, 2, 8, 1


def main() -> None:
    """Simulate, fit and draw."""
    table = simulated()
    study = analyse(table, metric="LPIPS (simulated)")
    for name, (value, low, high) in study.coefficients().items():
        print(f"{name}: {value:.4g} ({low:.4g} to {high:.4g}), truth {float(TRUTH.coefficients()[name][0]):.4g}")
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), width_ratios=(1.5, 1, 1), layout="constrained")
    surface(axes[0], table, study)
    residuals(axes[1], table, study)
    back_test(axes[2], table, study)
    figure.savefig(Path(__file__).parent / "images" / "scaling_fit.png", dpi=110)


def simulated() -> Table:
    """50 trials; samples in proportion to people."""
    size, people = (
        np.repeat(a.ravel(), SEEDS) for a in np.meshgrid(np.geomspace(5e5, 1.3e8, 5), np.geomspace(16, 4096, 5))
    )
    columns = {"parameters": size, "samples": people}
    error = TRUTH.predict(columns)[0] * np.exp(NOISE * np.random.default_rng(SEED).standard_normal(len(size)))
    return Table("all parameters, without critics", columns, error[:, None])


def surface(axis: Axes, table: Table, study: Study) -> None:
    """Error over size for every amount of data, with the law and its intervals, and where they lead."""
    size, data = table.columns["parameters"], table.columns["samples"]
    amounts = np.unique(data)
    along = np.geomspace(size.min() / 1.5, size.max() * AHEAD, 60)
    for place, amount in enumerate([*amounts, AHEAD * amounts[-1]]):
        shade = plt.get_cmap("viridis")(0.9 * place / len(amounts))
        there = {"parameters": along, "samples": np.full(len(along), amount)}
        ends = np.array([interval(curve) for curve in study.draws.predict(there).T])
        tried = place < len(amounts)
        axis.plot(along, study.law.predict(there)[0], color=shade, lw=1, ls="-" if tried else "--")
        axis.fill_between(along, *ends.T, color=shade, alpha=0.25, lw=0)
        rows = data == amount
        axis.plot(size[rows], table.error[rows], "o", color=shade, ms=3.5)
        axis.annotate(
            f"{amount:.0f}",
            (along[-1], ends[-1].mean()),
            fontsize=8,
            va="center",
            xytext=(3, 0),
            textcoords="offset points",
        )
    value, low, high = study.coefficients()["E"]
    axis.axhspan(low, high, color="gray", alpha=0.15, lw=0)
    axis.annotate(f"floor E = {value:.3f} ({low:.3f} to {high:.3f})", (1.1 * along[0], low), fontsize=8, va="bottom")
    axis.axvline(size.max(), color="gray", lw=0.8, ls=":")
    axis.annotate("tried ", (size.max(), table.error.max()), ha="right", fontsize=8)
    axis.set(
        xscale="log", yscale="log", xlabel="parameters", ylabel=study.metric, title="law and 90 % intervals, by data"
    )
    axis.set_xlim(along[0], along[-1] * 2.8)


def residuals(axis: Axes, table: Table, study: Study) -> None:
    """What the law leaves, over what it says."""
    data = np.log(table.columns["samples"])
    shade = plt.get_cmap("viridis")(0.9 * (data - data.min()) / np.ptp(data) * 0.83)
    axis.scatter(study.law.predict(table.columns)[0], 100 * study.residuals, c=shade, s=14)
    axis.axhline(0, color="gray", lw=0.8)
    axis.set(xlabel="predicted", ylabel="error over prediction, %", title="residuals")


def back_test(axis: Axes, table: Table, study: Study) -> None:
    """The largest trials against what the others say of them."""
    tested = study.tested
    assert tested is not None
    places = np.arange(len(tested.error))
    reach = np.abs(np.stack([tested.low, tested.high]) - tested.predicted)
    axis.errorbar(places, tested.predicted, reach, fmt="s", ms=4, capsize=4, color="gray", label="said by the others")
    axis.plot(places, tested.error, "o", color="crimson", label="measured")
    names = [f"{size:.2g}\nx {data:.0f}" for size, data in zip(tested.parameters, tested.data, strict=True)]
    axis.set_xticks(places, names, fontsize=7)
    axis.set(
        title=f"back-test: {tested.inside} of {len(places)} inside", xlabel="parameters x data", ylabel=study.metric
    )
    axis.margins(x=0.15)
    axis.legend(fontsize=8)


if __name__ == "__main__":
    main()
