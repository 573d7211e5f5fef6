package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestGeneratedFilesFollowTheTable(t *testing.T) {
	t.Parallel()
	for path, render := range outputs {
		got, err := os.ReadFile(filepath.Join("../../../..", path))
		if err != nil {
			t.Error(err)
			continue
		}
		if diff := cmp.Diff(string(render()), string(got)); diff != "" {
			t.Errorf("%s is not what table.go says; run make generate:\n%s", path, diff)
		}
	}
}
