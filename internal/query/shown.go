package query

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tarn.dev/tarn/internal/runtime"
)

// fewFiles are shown one by one. Of more in one folder the folder is shown, which is cheaper and holds other files of
// the same table.
const fewFiles = 16

// showing is what a child's sandbox shows for a job: the files that it reads, and those that it writes.
type showing struct {
	mounts []runtime.Mount
	made   []string // files of sinks
}

// show makes the files that a job writes, so that their folders stay out of the sandbox, and lists what is shown.
func show(job Job) (s showing, err error) {
	defer func() {
		if err != nil {
			s.discard()
		}
	}()
	for _, path := range shortened(job.reads()) {
		if _, err := os.Stat(path); err == nil && filepath.IsAbs(path) { // the engine says what is wrong with others
			s.add(path, false)
		}
	}
	for _, sink := range job.Sinks {
		switch sink.Kind {
		case SinkTable:
			s.add(sink.Path, true)
		case SinkArrow, SinkFile:
			f, err := os.OpenFile(sink.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if err != nil {
				return s, fmt.Errorf("make the file of a result: %w", err)
			}
			s.made = append(s.made, sink.Path)
			if err := f.Close(); err != nil {
				return s, err
			}
			s.add(sink.Path, true)
		}
	}
	return s, nil
}

func (s *showing) add(path string, writable bool) {
	s.mounts = append(s.mounts, runtime.Mount{Name: fmt.Sprint("f-", len(s.mounts)), Source: path, InPlace: true, Writable: writable})
}

// discard removes what a failed job was to write.
func (s *showing) discard() {
	for _, path := range s.made {
		_ = os.Remove(path) // scratch, or a caller's who removes it too
	}
}

// reads are the files that a job reads; of a pattern, the folder that has all it can match.
func (job Job) reads() []string {
	var paths []string
	for _, source := range job.Sources {
		paths = append(paths, source.Arrow...)
		if source.Parquet != nil {
			paths = append(paths, source.Parquet.Files...)
		}
		if source.Import != nil {
			for _, path := range source.Import.Paths {
				paths = append(paths, beforePattern(path))
			}
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// beforePattern is the folder above the first part of a path that is a pattern, or the path.
func beforePattern(path string) string {
	at := strings.IndexAny(path, "*?[")
	if at < 0 {
		return path
	}
	return filepath.Dir(path[:at] + "x")
}

// shortened puts a folder in the place of many files in it. Not if there are links among them: they lead out of it.
func shortened(paths []string) []string {
	in, linked := map[string]int{}, map[string]bool{}
	for _, path := range paths {
		dir := filepath.Dir(path)
		in[dir]++
		if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSymlink != 0 {
			linked[dir] = true
		}
	}
	var short []string
	for _, path := range paths {
		if dir := filepath.Dir(path); in[dir] > fewFiles && !linked[dir] {
			path = dir
		}
		short = append(short, path)
	}
	slices.Sort(short)
	return slices.Compact(short)
}
