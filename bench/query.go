package main

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
)

// query runs SQL by the command, and in this process by DuckDB on the very same Parquet files. What the
// command adds is a process of its own, a call to the server and an engine child.
func query(ctx context.Context, b *bench) error {
	dir, err := b.project("query", map[string]string{})
	if err != nil {
		return err
	}
	rows := b.size(3_000_000, 300_000)
	create := fmt.Sprintf("create table t as select range as id, range %% 300 as origin, range * 7 %% 1000 / 10 as delay from range(%d)", rows)
	if _, err := b.tarn(ctx, dir, "query", create); err != nil {
		return err
	}
	db, err := sql.Open("duckdb", "")
	if err != nil {
		return err
	}
	defer db.Close() //nolint:errcheck // in memory
	files := filepath.Join(b.dir, "home", "projects", "*", "tables", "*", "data", "*.parquet")
	if _, err := db.ExecContext(ctx, "create view t as from read_parquet("+literal(files)+")"); err != nil {
		return err
	}
	start, err := best(b.size(30, 10), func() error { _, err := b.tarn(ctx, dir, "version"); return err })
	if err != nil {
		return err
	}
	fmt.Printf("  %s ms of each query by the command are the start of its process\n", number(milliseconds(start)))
	for _, q := range []struct {
		what, sql string
		extra     float64 // budget, in ms beyond DuckDB
	}{
		{"select 1", "select 1", 60},
		{"one row of a table", "from t where id = 4711", 30},
		{"group by over a table", "select origin, count(*), avg(delay) from t group by all order by all", 30},
	} {
		ours, err := best(b.size(30, 10), func() error { _, err := b.tarn(ctx, dir, "query", q.sql); return err })
		if err != nil {
			return err
		}
		theirs, err := best(b.size(30, 10), func() error { return drain(ctx, db, q.sql) })
		if err != nil {
			return err
		}
		peer := fmt.Sprintf("DuckDB in process (%s ms)", number(milliseconds(theirs)))
		row{q.what + ", beyond DuckDB", milliseconds(ours - theirs), "ms", atMost(q.extra), peer, float64(ours) / float64(theirs)}.print()
	}
	return nil
}

// drain reads every row of a query.
func drain(ctx context.Context, db *sql.DB, text string) error {
	rows, err := db.QueryContext(ctx, text)
	if err != nil {
		return err
	}
	defer rows.Close() //nolint:errcheck // read to its end
	for rows.Next() {
	}
	return rows.Err()
}

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
