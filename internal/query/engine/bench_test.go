package engine_test

import (
	"io"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"tarn.dev/tarn/internal/query"
	"tarn.dev/tarn/internal/query/engine/duck"
)

// BenchmarkSelect1 is a whole query: analysis and run in a warm child.
func BenchmarkSelect1(b *testing.B) {
	e := start(b, query.Options{})
	for b.Loop() {
		plan, err := e.Plan(b.Context(), query.Request{SQL: "SELECT 1"}, resolver())
		if err != nil {
			b.Fatal(err)
		}
		if _, err := e.Stream(b.Context(), plan, 0, io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSelect1InProcess is what a child's own query costs.
func BenchmarkSelect1InProcess(b *testing.B) {
	db, err := duck.Open(nil)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	for b.Loop() {
		if err := db.Exec("SELECT 1"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAnalyze is the analysis of a text that is not cached, in a child that is reused.
func BenchmarkAnalyze(b *testing.B) {
	e := start(b, query.Options{})
	text := "SELECT * FROM a JOIN b USING (id) WHERE x > 1 --"
	for b.Loop() {
		text += "-"
		if _, err := e.Analyze(b.Context(), "", text); err != nil {
			b.Fatal(err)
		}
	}
}

func arrowSource(b *testing.B, e *query.Engine) query.Source {
	b.Helper()
	path := filepath.Join(b.TempDir(), "t.arrow")
	sql := "SELECT i, i % 1000 AS k, i * 0.5::DOUBLE AS f, i::VARCHAR AS s, DATE '2024-01-01' + (i % 365)::INTEGER AS d FROM range(10000000) r(i)"
	if _, err := e.Run(b.Context(), query.Job{SQL: sql, Sinks: []query.Sink{{Kind: query.SinkArrow, Path: path}}}, nil); err != nil {
		b.Fatal(err)
	}
	return query.Source{Name: query.Name{Table: "t"}, Arrow: []string{path}}
}

// BenchmarkArrow reads 10 million rows of 5 columns from a mapped Arrow file.
func BenchmarkArrow(b *testing.B) {
	e := start(b, query.Options{})
	source := arrowSource(b, e)
	for name, sql := range map[string]string{
		"stream": "FROM t",
		"sum":    "SELECT sum(f) FROM t",
		"group":  "SELECT k, sum(f), count(*) FROM t GROUP BY k",
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				job := query.Job{SQL: sql, Sources: []query.Source{source}, Sinks: stream}
				if _, err := e.Run(b.Context(), job, io.Discard); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(10*float64(b.N)/b.Elapsed().Seconds(), "Mrows/s")
		})
	}
}

// BenchmarkOpen is what a job's own DuckDB costs.
func BenchmarkOpen(b *testing.B) {
	for b.Loop() {
		db, err := duck.Open(nil)
		if err != nil {
			b.Fatal(err)
		}
		db.Close()
	}
}

// BenchmarkStep is a job of a pipeline: a table of one row into another one, in the child that ran the job before.
func BenchmarkStep(b *testing.B) {
	e := start(b, query.Options{})
	dir := b.TempDir()
	job := query.Job{Owner: "run", Seed: "s", SQL: "SELECT 1 AS n"}
	step := 0
	var cpu time.Duration
	for b.Loop() {
		path := filepath.Join(dir, strconv.Itoa(step)+".arrow")
		job.Sinks = []query.Sink{{Kind: query.SinkArrow, Path: path}}
		result, err := e.Run(b.Context(), job, nil)
		if err != nil {
			b.Fatal(err)
		}
		cpu += result.CPU
		job.SQL, job.Sources = "SELECT n + 1 AS n FROM t", []query.Source{{Name: query.Name{Table: "t"}, Arrow: []string{path}}}
		step++
	}
	b.ReportMetric(float64(cpu.Microseconds())/float64(b.N)/1000, "ms-cpu-of-job")
}
