"""Coverage of the slide interval over simulated cohorts: numbers only, no images.

python tools/bench/bench_interval_coverage.py --cohorts 2000

Patients' true fractions are logit-normal; every fold's network reads with an offset of its own, a slope below 1 and
noise. The deployed network is that of one fold, as `vstain export` makes it; new patients are of the same population.
"""

from __future__ import annotations

import click


@click.command()
@click.option("--cohorts", default=2000, show_default=True)
@click.option("--new", "n_new", default=5, show_default=True, help="New patients read per cohort.")
@click.option("--seed", default=0, show_default=True)
def main(cohorts: int, n_new: int, seed: int) -> None:
    """Prints a line per shape of cohort."""
    import numpy as np

    from virtual_stain.intervals import OutOfFold, fit_interval, slide_interval

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    print("patients  folds  offset  noise  coverage  mean width (points)  cohorts refused")
    for n, folds, offset, noise in (
        (20, 3, 0.2, 0.4), (24, 3, 0.0, 0.4), (24, 3, 0.2, 0.4), (24, 3, 0.4, 0.4), (24, 3, 0.2, 0.8),
        (40, 5, 0.2, 0.4), (100, 5, 0.2, 0.4),
    ):  # fmt: skip
        rng = np.random.default_rng(seed)
        hits, widths, refused = [], [], 0
        for _ in range(cohorts):
            offsets, fold = rng.normal(0, offset, folds), np.arange(n) % folds
            truth, new = rng.normal(-1.2, 0.9, n), rng.normal(-1.2, 0.9, n_new)
            read = sigmoid(0.8 * truth - 0.2 + offsets[fold] + rng.normal(0, noise, n))
            payload = fit_interval(
                OutOfFold(f"{i:04d}", "s", int(fold[i]), float(read[i]), float(sigmoid(truth[i]))) for i in range(n)
            )
            if not payload["available"]:
                refused += 1
                continue
            for reading, value in zip(
                sigmoid(0.8 * new - 0.2 + offsets[0] + rng.normal(0, noise, n_new)), sigmoid(new), strict=True
            ):
                found = slide_interval(payload, float(reading))
                assert found.low is not None
                assert found.high is not None
                hits.append(found.low <= value <= found.high)
                widths.append(found.high - found.low)
        print(
            f"{n:8}  {folds:5}  {offset:6.1f}  {noise:5.1f}  {100 * np.mean(hits):7.1f} %  "
            f"{100 * np.mean(widths):19.1f}  {refused:15}",
            flush=True,
        )


if __name__ == "__main__":
    main()
