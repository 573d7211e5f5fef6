# /// script
# dependencies = ["numpy==2.2.6"]
# ///
"""How late a flight is, by its hour and distance: 500 fits of a small model, to find the settings that predict best."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np

import tarn


class Settings(NamedTuple):
    width: float
    penalty: float
    features: int


@tarn.function
def fit(settings: Settings, folds: int = 5) -> float:
    """The error of a ridge regression over random Fourier features, in minutes, on rows that it has not seen."""
    hour, distance, delay = np.loadtxt(Path(__file__).with_name("flights.csv"), delimiter=",", skiprows=1, unpack=True)
    delay = np.clip(delay, -30, 120)
    x = np.column_stack([(hour - 12) / 6, (distance - 700) / 500])
    dice = np.random.default_rng(1)
    x = np.cos(x @ dice.normal(0, 1 / settings.width, (2, settings.features)) + dice.uniform(0, 2 * np.pi, settings.features))
    part = dice.integers(0, folds, len(delay))
    wrong = np.empty(len(delay))
    for k in range(folds):
        seen, unseen = part != k, part == k
        mean = delay[seen].mean()
        weights = np.linalg.solve(x[seen].T @ x[seen] + settings.penalty * np.eye(settings.features), x[seen].T @ (delay[seen] - mean))
        wrong[unseen] = delay[unseen] - mean - x[unseen] @ weights
    return float(np.sqrt((wrong**2).mean()))


@tarn.entrypoint
def main(fits: int = 500, concurrency: int | None = None):
    """Try `fits` settings and print the best."""
    grid = itertools.product(np.geomspace(0.1, 10, 10).tolist(), np.geomspace(0.01, 1000, 10).tolist(), (10, 20, 40, 60, 80))
    settings = [Settings(*s) for s in grid][:fits]
    errors = list(fit.map(settings, concurrency=concurrency))
    print(f"{len(errors)} fits, errors from {min(errors):.2f} to {max(errors):.2f} minutes")
    for error, s in sorted(zip(errors, settings))[:3]:
        print(f"{error:.2f}  width {s.width:.2f}, penalty {s.penalty:g}, {s.features} features")
