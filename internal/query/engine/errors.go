package engine

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/query"
	"tarn.dev/tarn/internal/query/engine/duck"
)

// classify gives DuckDB's errors a code. DuckDB's text stays: it names the place in the statement.
func classify(err error) error {
	var known *errdef.Error
	if errors.As(err, &known) {
		return err
	}
	if errors.Is(err, syscall.ENOSPC) {
		return query.ErrDiskFull.Errorf("%w", err)
	}
	if errors.Is(err, duck.ErrSeveral) {
		return query.ErrStatement.Errorf("give exactly one statement")
	}
	var e *duck.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("engine: %w", err)
	}
	switch e.Class {
	case "Out of Memory Error":
		if strings.Contains(e.Message, "max_temp_directory_size") {
			return query.ErrDiskFull.Errorf("the query spilled more than it may: %s", firstLine(e.Message))
		}
		return query.ErrOutOfMemory.Errorf("the query needs more memory than its limit: %s", firstLine(e.Message))
	case "Permission Error":
		return query.ErrFileAccess.Errorf("%s", e.Message).
			WithNext("Import the file first: tarn table import FILE --as NAME")
	case "IO Error":
		if strings.Contains(e.Message, "No space left on device") {
			return query.ErrDiskFull.Errorf("%s", e.Message)
		}
		return query.ErrRead.Errorf("%s", e.Error())
	case "Invalid Error":
		// DuckDB's name for what a library below it threw, here the reader of Parquet's metadata.
		if strings.HasPrefix(e.Message, "TProtocolException") || strings.HasPrefix(e.Message, "don't know what type") {
			return query.ErrCorrupt.Errorf("a Parquet file is corrupt: %s", firstLine(e.Message)).
				WithNext("Find the table: tarn fsck --deep")
		}
	case "INTERNAL Error", "INTERNAL", "FATAL Error":
		return errdef.Newf(errdef.Internal, "query.engine_bug", "%s", e.Error())
	case "Not implemented Error":
		return errdef.Newf(errdef.NotImplemented, "query.not_implemented", "%s", e.Error())
	}
	return query.ErrStatement.Errorf("%s", e.Error())
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
