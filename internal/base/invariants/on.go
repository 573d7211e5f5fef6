//go:build invariants || race

package invariants

// Enabled tells whether costly checks run and a violation panics.
const Enabled = true
