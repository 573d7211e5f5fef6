"""The routes, with polars."""

import polars as pl
import tarn


@tarn.asset(env=tarn.Env(packages=["polars>=1.31"]), checks=["unique(origin, destination)"])
def routes(departures: pl.LazyFrame) -> pl.DataFrame:
    """Each pair of airports: how often, how far, how late."""
    return (
        departures.group_by("origin", "destination")
        .agg(pl.len().alias("departures"), pl.col("distance").median(), pl.col("delay").mean().alias("mean_delay"))
        .sort("departures", descending=True)
        .collect()
    )
