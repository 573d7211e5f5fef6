package engine

import (
	"tarn.dev/tarn/internal/query"
	"tarn.dev/tarn/internal/query/engine/duck"
)

func analyze(db *duck.DB, sql string) (*query.Analysis, error) {
	return &query.Analysis{Kind: query.Select, SQL: sql}, nil
}
func withoutSemicolon(s string) string { return s }
