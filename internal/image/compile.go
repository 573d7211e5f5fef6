package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Compile byte-compiles the Python files below dir for an interpreter, unless that was done before, which
// costs one stat. A process that may not write its byte code compiles all that it imports at every start:
// 25 ms of processor time for Tarn's own Python package.
func (s *Store) Compile(ctx context.Context, python, dir string) error {
	done := filepath.Join(dir, fmt.Sprintf(".compiled-%x", sha256.Sum256([]byte(python))))
	if _, err := os.Stat(done); !errors.Is(err, fs.ErrNotExist) {
		return classify(err)
	}
	// Two processes that do so at once write the same files, each by renaming.
	cmd := exec.CommandContext(ctx, python, "-I", "-S", "-m", "compileall", "-q", dir)
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return fmt.Errorf("byte-compile %s: %w\n%s", dir, err, out)
	}
	return writeFile(done, nil, 0o644)
}

// byteCompile compiles a package that was just unpacked. A file that is no Python of this version stays as
// it is, and so do the package's own tests, which hardly anybody imports: three quarters of pandas' files,
// and of the 3 s that it took.
func (b *box) byteCompile(ctx context.Context, python Interpreter, dir string) error {
	_, said, err := b.run(ctx, nil, python.Path, "-I", "-S", "-m", "compileall", "-q", "-j", "0", "-x", "/tests?/", dir)
	var failed failedError
	if errors.As(err, &failed) && failed == 1 {
		return nil // some file is none of this Python
	} else if errors.As(err, &failed) {
		return fmt.Errorf("byte-compile %s: %w\n%s", dir, err, said)
	}
	return err
}
