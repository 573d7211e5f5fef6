// Package pattern compiles regular expressions when they are first matched. Every process of Tarn is one binary and would
// compile all of them at its start, which took 1 ms and half a megabyte.
package pattern

import (
	"regexp"
	"sync"
)

// Of returns the compiled expr. It panics, at the first call, if expr is malformed.
func Of(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}
