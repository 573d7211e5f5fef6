// Package ids makes the short random names that people see and type.
package ids

import (
	"crypto/rand"
	"strings"
)

// alphabet is Crockford's base32 in lower case: no i, l, o or u, so ids can be read aloud and copied by
// hand. It has 32 letters, hence five bits of a random byte choose one without bias.
const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// RunLength is the number of random letters a run id begins with: 30 bits, a collision in 1 of 1,000
// projects that hold 1,000 runs each. Whoever stores a run does so if absent, and on a collision asks
// for an id that is one letter longer.
const RunLength = 6

const (
	runPrefix     = "r-"
	requestPrefix = "q-"
	callPrefix    = "c-"
	callLength    = 12
)

// Run makes a run id such as r-7k2m9x with that many random letters, RunLength at least.
func Run(length int) string { return runPrefix + random(max(length, RunLength)) }

// IsRun tells whether s has the form of a run id.
func IsRun(s string) bool {
	rest, ok := strings.CutPrefix(s, runPrefix)
	return ok && len(rest) >= RunLength && strings.Trim(rest, alphabet) == ""
}

// IsCall tells whether s has the form of a call id.
func IsCall(s string) bool {
	rest, ok := strings.CutPrefix(s, callPrefix)
	return ok && len(rest) == callLength && strings.Trim(rest, alphabet) == ""
}

// Request makes the id of one mutating API call. It has 130 random bits: two calls never share one.
func Request() string { return requestPrefix + random(26) }

// Call makes the id of a call of a function. Calls live as long as a server: 60 bits never meet.
func Call() string { return callPrefix + random(callLength) }

func random(n int) string {
	b := make([]byte, n)
	rand.Read(b) //nolint:errcheck // it never fails: documented since Go 1.24
	for i := range b {
		b[i] = alphabet[b[i]&31]
	}
	return string(b)
}
