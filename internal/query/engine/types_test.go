package engine_test

import (
	"path/filepath"
	"testing"

	"tarn.dev/tarn/internal/query"
)

// everything is a row of each type that SQL can make, and a row of NULLs.
const everything = `
	SELECT true AS a_bool, 1::TINYINT AS a_i8, 2::SMALLINT AS a_i16, 3::INTEGER AS a_i32, 4::BIGINT AS a_i64,
		5::UTINYINT AS a_u8, 6::USMALLINT AS a_u16, 7::UINTEGER AS a_u32, 8::UBIGINT AS a_u64,
		1.5::FLOAT AS a_f32, 2.5::DOUBLE AS a_f64, 1.25::DECIMAL(4, 2) AS a_d4, 123456789.125::DECIMAL(18, 3) AS a_d18,
		12345678901234567890.5::DECIMAL(38, 1) AS a_d38, 'text' AS a_text, 'b'::BLOB AS a_blob,
		DATE '2024-02-29' AS a_date, TIME '12:34:56.789' AS a_time, TIMESTAMP '2024-02-29 12:34:56.789' AS a_ts,
		'2024-02-29 12:34:56'::TIMESTAMP_S AS a_ts_s, '2024-02-29 12:34:56.789'::TIMESTAMP_MS AS a_ts_ms,
		'2024-02-29 12:34:56.789'::TIMESTAMP_NS AS a_ts_ns, TIMESTAMPTZ '2024-02-29 12:34:56+02' AS a_tz,
		INTERVAL '14 months 3 days 5 seconds' AS a_interval, [1, NULL, 3] AS a_list, [[1], []] AS a_lists,
		[1, 2]::INTEGER[2] AS a_array, {'x': 1, 'y y': 'z'} AS a_struct, MAP {'k': 1.5::DOUBLE} AS a_map,
		'b'::ENUM ('a', 'b') AS a_enum, '{"j": 1}'::JSON AS a_json,
		'12345678-1234-5678-1234-567812345678'::UUID AS a_uuid, 12345::HUGEINT AS a_huge`

// TestSameTypes reads the same rows as Parquet and as Arrow: SQL must see the same types and values, or
// an asset's result would depend on where its input happened to lie.
func TestSameTypes(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	name := query.Name{Table: "t"}
	sql := everything + " UNION ALL BY NAME SELECT NULL AS a_bool"
	parquet := table(t, e, name, sql)
	path := filepath.Join(t.TempDir(), "t.arrow")
	if _, err := e.Run(t.Context(), query.Job{SQL: sql, Sinks: []query.Sink{{Kind: query.SinkArrow, Path: path}}}, nil); err != nil {
		t.Fatal(err)
	}
	arrow := query.Source{Name: name, Arrow: []string{path}}
	for _, sql := range []string{"SELECT column_name, column_type FROM (DESCRIBE t)", "FROM t"} {
		fromParquet, err := runSQL(t, e, sql, parquet)
		if err != nil {
			t.Fatal(err)
		}
		fromArrow, err := runSQL(t, e, sql, arrow)
		if err != nil {
			t.Fatal(err)
		}
		diffLines(t, sql, fromArrow, fromParquet)
	}
	empty := parquet
	scan := *parquet.Parquet
	scan.Files = nil
	empty.Parquet = &scan
	want, err := runSQL(t, e, "SELECT column_name, column_type FROM (DESCRIBE t)", parquet)
	if err != nil {
		t.Fatal(err)
	}
	got, err := runSQL(t, e, "SELECT column_name, column_type FROM (DESCRIBE t)", empty)
	if err != nil {
		t.Fatal(err)
	}
	diffLines(t, "an empty table", want, got)
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	source := table(t, e, query.Name{Table: "t"}, "SELECT 1 AS id, 'x' AS name")
	plan, err := e.Plan(t.Context(), query.Request{SQL: "SELECT name, sum(id) AS total FROM t GROUP BY ALL"}, resolver(source))
	if err != nil {
		t.Fatal(err)
	}
	data, err := e.Describe(t.Context(), plan)
	if err != nil {
		t.Fatal(err)
	}
	schema, err := query.ParseSchema(data)
	if err != nil || schema.NumFields() != 2 || schema.Field(1).Name != "total" {
		t.Errorf("got %v, %v", schema, err)
	}
}
