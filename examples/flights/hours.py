"""When to fly: with the pandas of 2023, in the same run."""

from typing import Annotated

import pandas as pd
import tarn


@tarn.asset(env="classic", checks=["unique(hour)", "rows(24, 24)"])
def hours(departures: Annotated[pd.DataFrame, tarn.table(columns=["hour", "delay"])]) -> pd.DataFrame:
    """Departures and delay by hour of the day."""
    print(f"pandas {pd.__version__}: {len(departures):,} departures")
    late = departures.delay > 15
    return departures.assign(late=late).groupby("hour").agg(departures=("late", "size"), late=("late", "mean")).reset_index()
