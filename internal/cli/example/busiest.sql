-- tarn: checks = ["unique(origin)"]
SELECT origin, count(*) AS flights, avg(delay) AS mean_delay
FROM flights
GROUP BY origin
ORDER BY flights DESC
