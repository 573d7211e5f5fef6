"""How late each airport is: with the pandas of today."""

from typing import Annotated

import pandas as pd
import tarn


@tarn.asset(env="modern", checks=["unique(origin)", "mean_delay is not null", "references(origin, airports.iata)"])
def delays(
    departures: Annotated[pd.DataFrame, tarn.table(columns=["origin", "delay"])],
    airports: pd.DataFrame,
    least: int = 1000,
) -> pd.DataFrame:
    """Mean delay of the airports with at least `least` departures."""
    print(f"pandas {pd.__version__}: {len(departures):,} departures")
    by = departures.groupby("origin").delay.agg(departures="size", mean_delay="mean").reset_index()
    by = by[by.departures >= least]
    return by.merge(airports[["iata", "city", "state"]], left_on="origin", right_on="iata").drop(columns="iata")


@tarn.check(delays, severity="warn")
def plausible(delays: pd.DataFrame) -> pd.DataFrame:
    """Airports that are an hour late on average: somebody should look."""
    return delays[delays.mean_delay > 60]
