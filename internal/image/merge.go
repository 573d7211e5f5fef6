package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// overlapFile records, inside a view, the paths that several of its packages bring.
const overlapFile = ".tarn-overlaps"

// merge links the files of packages into one folder, which it makes read-only; dirs are the packages'
// folders, sorted by name as packages are. Of a path that several bring with different content, that of
// the last one counts, on every host.
func merge(into string, packages []Package, dirs []string, progress func(string)) error {
	m := merger{into: into, made: map[string]bool{".": true}, owner: map[string]int{}, overlaps: map[string][]int{}}
	for i, dir := range dirs {
		if err := m.add(i, dir); err != nil {
			return err
		}
	}
	if err := m.note(packages, progress); err != nil {
		return err
	}
	var errs []error
	for dir := range m.made {
		errs = append(errs, os.Chmod(filepath.Join(into, dir), 0o555))
	}
	return errors.Join(errs...)
}

type merger struct {
	into     string
	made     map[string]bool
	owner    map[string]int   // path -> the package that it is of now
	overlaps map[string][]int // path -> the packages that disagree on it
}

func (m *merger) add(i int, dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		target := filepath.Join(m.into, name)
		if d.IsDir() {
			if m.made[name] {
				return nil
			}
			m.made[name] = true
			return os.Mkdir(target, 0o755)
		}
		err = os.Link(path, target)
		if errors.Is(err, fs.ErrExist) {
			return m.replace(i, name, path, target)
		}
		m.owner[name] = i
		return err
	})
}

// replace puts the file at path where that of another package is, unless they are the same.
func (m *merger) replace(i int, name, path, target string) error {
	same, err := sameContent(path, target)
	if err != nil || same {
		return err
	}
	if len(m.overlaps[name]) == 0 {
		m.overlaps[name] = []int{m.owner[name]}
	}
	m.overlaps[name] = append(m.overlaps[name], i)
	if err := os.Remove(target); err != nil {
		return err
	}
	return os.Link(path, target)
}

// note says, to the user and in the view, what was brought more than once. Byte code follows its source.
func (m *merger) note(packages []Package, progress func(string)) error {
	var note strings.Builder
	for _, path := range slices.Sorted(maps.Keys(m.overlaps)) {
		if filepath.Base(filepath.Dir(path)) == "__pycache__" {
			continue
		}
		var names []string
		for _, i := range m.overlaps[path] {
			names = append(names, packages[i].Name)
		}
		fmt.Fprintf(&note, "%s is in %s; that of %s is used\n", path, strings.Join(names, ", "), names[len(names)-1])
	}
	if note.Len() == 0 {
		return nil
	}
	for line := range strings.Lines(note.String()) {
		progress(strings.TrimSpace(line))
	}
	return os.WriteFile(filepath.Join(m.into, overlapFile), []byte(note.String()), 0o444)
}

func sameContent(a, b string) (same bool, err error) {
	x, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, x.Close()) }()
	y, err := os.Open(b)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, y.Close()) }()
	sx, err1 := x.Stat()
	sy, err2 := y.Stat()
	if err := errors.Join(err1, err2); err != nil || os.SameFile(sx, sy) || sx.Size() != sy.Size() {
		return err == nil && os.SameFile(sx, sy), err
	}
	p, q := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(x, p)
		_, err2 := io.ReadFull(y, q[:n])
		if err2 != nil || !bytes.Equal(p[:n], q[:n]) {
			return false, err2
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return true, nil
		} else if err != nil {
			return false, err
		}
	}
}
