"""A small pipeline: one table made in Python, one made of it in SQL (busiest.sql)."""

import tarn


@tarn.asset(checks=["unique(number)", "delay between -60 and 600"])
def flights() -> list[dict]:
    """A week of made-up departures."""
    origins = ["BER", "CDG", "LHR", "OSL", "LHR", "CDG", "LHR"]
    return [
        {"number": 100 + n, "origin": origins[n % 7], "day": n // 10, "delay": n * 37 % 61 - 10}
        for n in range(70)
    ]
