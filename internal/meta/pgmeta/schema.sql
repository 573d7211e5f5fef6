CREATE TABLE tarn.rows (key bytea PRIMARY KEY, value bytea NOT NULL, version bigint NOT NULL, sum bigint NOT NULL);
CREATE INDEX rows_version ON tarn.rows (version);
CREATE TABLE tarn.gone (key bytea PRIMARY KEY, version bigint NOT NULL);
CREATE INDEX gone_version ON tarn.gone (version);
CREATE TABLE tarn.state (name text PRIMARY KEY, value bigint NOT NULL);
CREATE TABLE tarn.writer (id bytea PRIMARY KEY, batch bigint NOT NULL, at timestamptz NOT NULL);
INSERT INTO tarn.state VALUES ('format', 2), ('txn', 0), ('horizon', 0),
	('identity', (random() * 9007199254740991)::bigint);
