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
	return writeFile(done, nil)
}

// byteCompile compiles a package that was just unpacked. A file that is no Python of this version stays as
// it is, and so do the package's own tests, which hardly anybody imports: three quarters of pandas' files,
// and of the 3 s that it took.
func (s *Store) byteCompile(ctx context.Context, python Interpreter, dir string) error {
	out, err := s.run(ctx, command{
		argv: []string{python.Path, "-I", "-S", "-m", "compileall", "-q", "-j", "0", "-x", "/tests?/", dir},
		dir:  dir, env: []string{"PATH=/usr/bin:/bin"},
	})
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 && context.Cause(ctx) == nil {
		return nil // some file is none of this Python
	} else if err != nil && context.Cause(ctx) == nil {
		return fmt.Errorf("byte-compile %s: %w\n%s", dir, err, out)
	}
	return err
}
