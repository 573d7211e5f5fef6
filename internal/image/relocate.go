package image

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"tarn.dev/tarn/internal/base/pattern"
)

// interpreterLine is the first line of a program that uv wrote for a Python, or the first three where the
// path of that Python is too long for the kernel.
var interpreterLine = pattern.Of(`\A(?:#!/bin/sh\n'''exec' [^\n]*\n' '''|#![^\n]*python[^\n]*)\n`)

// relocate makes the programs of a package start whichever Python of this version is first on PATH: the
// folder serves every interpreter of it.
func relocate(bin, python string) error {
	entries, err := os.ReadDir(bin)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(bin, e.Name())
		if !e.Type().IsRegular() {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		line := interpreterLine().Find(b)
		if line == nil {
			continue // a shell script, or a binary
		}
		// Removed first: the file may be linked to uv's cache.
		b = append([]byte("#!/usr/bin/env python"+python+"\n"), b[len(line):]...)
		if err := errors.Join(os.Remove(path), os.WriteFile(path, b, 0o755)); err != nil {
			return err
		}
	}
	return nil
}
