-- tarn: checks = ["rows(1000000)", "delay between -60 and 1440"]
-- What really left, with the day and the hour. Four tables are made of this one.
SELECT origin, destination, CAST(date AS DATE) AS day, CAST(hour(date) AS INTEGER) AS hour, delay, distance
FROM flights
WHERE delay BETWEEN -60 AND 1440
