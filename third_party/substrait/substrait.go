// Package substrait stands in for the data module of Substrait v0.87.0, which iceberg-go links in for
// filters on rows. The original's seventeen extension files are parsed at the start of every process: 59 ms
// of processor time for each command and each child. This one has no functions, because no row goes through
// iceberg-go's filters: Tarn reads Parquet by itself. Whoever calls one gets an error that the function is
// not there.
package substrait

import "embed"

// The reader needs at least one file: none.yaml says nothing.
//
//go:embed extensions/none.yaml
var extensions embed.FS

// GetSubstraitExtensionsFS returns the extension files, in the folder extensions.
func GetSubstraitExtensionsFS() embed.FS { return extensions }
