package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	_ "github.com/duckdb/duckdb-go/v2" // the peer

	"tarn.dev/tarn/internal/catalog/dataver"
)

// flightsFile is 3 million real flights, from a package that people use for charts. Fetched once; without
// the registry as many rows of the same shape are made up.
func (b *bench) flightsFile(ctx context.Context, db *sql.DB) (file, origin string, err error) {
	const cache = ".cache/datasets"
	file = filepath.Join(cache, "node_modules/vega-datasets/data/flights-3m.parquet")
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(cache, 0o755); err != nil {
			return "", "", err
		}
		if _, err := b.command(ctx, ".", "npm", "install", "--prefix", cache, "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "vega-datasets@3.2.1"); err != nil {
			fmt.Println("  vega-datasets cannot be fetched, rows are made up:", err)
			file = filepath.Join(b.dir, "flights-3m.parquet")
			_, err := db.ExecContext(ctx, `COPY (SELECT TIMESTAMP '2001-01-01' + to_minutes(i // 20) AS date, (random() * 200 - 30)::SMALLINT AS delay,
				(random() * 2500)::SMALLINT AS distance, 'A' || (random() * 250)::INT AS origin, 'A' || (random() * 250)::INT AS destination
				FROM range(3000000) t(i)) TO '`+file+`' (FORMAT parquet)`)
			return file, "made up", err
		}
	}
	file, err = filepath.Abs(file)
	return file, "vega-datasets 3.2.1", err
}

// importing is the way of a Parquet or CSV file into a published table, against DuckDB's own way into a
// file of the same compression.
func importing(ctx context.Context, b *bench) error {
	db, err := sql.Open("duckdb", "")
	if err != nil {
		return err
	}
	defer db.Close() //nolint:errcheck // in memory
	flights, origin, err := b.flightsFile(ctx, db)
	if err != nil {
		return err
	}
	csv := filepath.Join(b.dir, "flights.csv")
	if _, err := db.ExecContext(ctx, fmt.Sprintf("COPY (FROM '%s') TO '%s'", flights, csv)); err != nil {
		return err
	}
	dir, err := b.project("import", map[string]string{})
	if err != nil {
		return err
	}
	if _, err := b.tarn(ctx, dir, "branch", "ls"); err != nil {
		return err
	}
	for _, src := range []struct{ kind, file string }{{"Parquet", flights}, {"CSV", csv}} {
		var tarn, duck time.Duration
		for try := range b.size(4, 2) {
			out := filepath.Join(b.dir, fmt.Sprintf("copy-%s-%d.parquet", src.kind, try))
			d, err := best(1, func() error {
				_, err := db.ExecContext(ctx, fmt.Sprintf("COPY (FROM '%s') TO '%s' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)", src.file, out))
				if err == nil {
					_, err = b.command(ctx, b.dir, "sync", out)
				}
				return err
			})
			if err != nil {
				return err
			}
			duck = least(duck, d)
			table := fmt.Sprintf("%s_%d", src.kind, try)
			if d, err = best(1, func() error { _, err := b.tarn(ctx, dir, "table", "import", src.file, "--as", table); return err }); err != nil {
				return err
			}
			tarn = least(tarn, d)
		}
		peer := fmt.Sprintf("DuckDB's COPY, zstd, synced (%s ms)", number(milliseconds(duck)))
		row{fmt.Sprintf("import of 3,000,000 rows of %s (%s)", src.kind, origin), milliseconds(tarn), "ms", nil, peer, float64(tarn) / float64(duck)}.print()
	}
	return nil
}

// dataVersion is the hash of rows that all table writes go through, against reading the columns once.
func dataVersion(_ context.Context, b *bench) error {
	const n = 1 << 20
	rec := fiveColumns(n)
	defer rec.Release()
	hash, err := best(b.size(30, 8), func() error {
		h, err := dataver.NewHasher(rec.Schema())
		if err != nil {
			return err
		}
		if err := h.Write(rec); err != nil {
			return err
		}
		if h.Sum().Rows != n {
			return fmt.Errorf("hashed %d rows", h.Sum().Rows)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var sum uint64
	bytes := 0
	read, err := best(b.size(30, 8), func() error {
		bytes = 0
		for _, col := range rec.Columns() {
			for _, buf := range col.Data().Buffers() {
				if buf == nil {
					continue
				}
				words := arrow.Uint64Traits.CastFromBytes(buf.Bytes()[:buf.Len()&^7])
				for _, w := range words {
					sum += w
				}
				bytes += buf.Len()
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if sum == 0 {
		return errors.New("the columns hold nothing")
	}
	rows := n / hash.Seconds() / 1e6
	peer := fmt.Sprintf("the time of a sum over the columns (%s GB/s)", number(float64(bytes)/read.Seconds()/1e9))
	row{"data version, 5 columns, one core", rows, "Mrows/s", atLeast(10), peer, float64(hash) / float64(read)}.print()
	return nil
}

// fiveColumns is a batch of flights.
func fiveColumns(n int) arrow.RecordBatch {
	rng := rand.New(rand.NewPCG(1, 2))
	b := array.NewRecordBuilder(memory.DefaultAllocator, arrow.NewSchema([]arrow.Field{
		{Name: "id", Type: arrow.PrimitiveTypes.Int64},
		{Name: "delay", Type: arrow.PrimitiveTypes.Int32},
		{Name: "distance", Type: arrow.PrimitiveTypes.Float64},
		{Name: "origin", Type: arrow.BinaryTypes.String},
		{Name: "at", Type: arrow.FixedWidthTypes.Timestamp_us},
	}, nil))
	defer b.Release()
	for i := range n {
		b.Field(0).(*array.Int64Builder).Append(int64(i))
		b.Field(1).(*array.Int32Builder).Append(int32(rng.IntN(600)))
		b.Field(2).(*array.Float64Builder).Append(float64(rng.IntN(3000)))
		b.Field(3).(*array.StringBuilder).Append(fmt.Sprintf("A%02d", rng.IntN(300)))
		b.Field(4).(*array.TimestampBuilder).Append(arrow.Timestamp(1e15 + int64(i)*1e6))
	}
	return b.NewRecordBatch()
}
