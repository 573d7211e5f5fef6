// Package substrait stands in for github.com/substrait-io/substrait, the data module of Substrait, of
// which nothing is in here. iceberg-go loads that module's declarations of functions at the start of
// every process, 59 ms for each command and each child, and needs them only to filter rows in its own
// scans, which Tarn does not use: docs/adr/0003-substrait-stand-in.md.
package substrait

import "embed"

// One file, which declares nothing: a folder without files cannot be embedded, and the loader panics
// without the folder.
//
//go:embed extensions/none.yaml
var extensions embed.FS

// GetSubstraitExtensionsFS is the one function of the original that is called, by substrait-go.
func GetSubstraitExtensionsFS() embed.FS { return extensions }
