package sdk_test

import (
	"io/fs"
	"strings"
	"testing"

	sdk "tarn.dev/tarn/sdk/python"
)

func TestFSHoldsTheRunner(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"__init__.py", "_runner.py", "_discover.py", "_errors_gen.py", "py.typed"} {
		if _, err := fs.Stat(sdk.FS(), name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	err := fs.WalkDir(sdk.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if strings.Contains(path, "__pycache__") {
			t.Errorf("compiled file %s is embedded", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestHashIsStable(t *testing.T) {
	t.Parallel()
	if got := sdk.Hash(); len(got) != 64 || got != sdk.Hash() {
		t.Fatalf("Hash() = %q", got)
	}
}
