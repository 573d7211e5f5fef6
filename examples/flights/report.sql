-- tarn: params = { top = 10 }, checks = ["unique(origin)", "rows(1, 100)"]
-- The airports to avoid, and the route to avoid them on.
SELECT d.origin, d.city, d.departures, round(d.mean_delay, 1) AS mean_delay,
       arg_max(r.destination, r.mean_delay) AS worst_to, round(max(r.mean_delay), 1) AS worst_delay
FROM delays d JOIN routes r USING (origin)
WHERE r.departures >= 100
GROUP BY ALL
ORDER BY mean_delay DESC
LIMIT $top
