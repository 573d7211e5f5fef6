//go:build !linux

package initprogram

// Path is nothing: there are no sandboxes here.
func Path() (string, error) { return "", nil }
