package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"tarn.dev/tarn/internal/base/pattern"
)

// Interpreter is a Python on this host.
type Interpreter struct {
	Path    string `json:"path"`    // of the real executable, never a shim or a link
	Version string `json:"version"` // "3.11.7"
	Minor   string `json:"minor"`   // "3.11"
	Prefix  string `json:"prefix"`  // folder above the executable that also holds the standard library
}

// probeScript prints what an interpreter is. A virtual environment answers with the Python under it:
// its packages are not ours to use.
const probeScript = `import json, os, sys, sysconfig
print(json.dumps({
    "path": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
    "prefix": os.path.realpath(sys.base_prefix),
    "version": "%d.%d.%d" % sys.version_info[:3],
    "usable": sys.implementation.name == "cpython" and sys.maxsize > 2**32 and not sysconfig.get_config_var("Py_GIL_DISABLED"),
}))`

const probeTimeout = 10 * time.Second

var errProbeTimeout = errors.New("interpreter does not answer")

// probed is what is remembered of a file that may be a Python, until the file changes.
type probed struct {
	Size    int64       `json:"size"`
	ModTime int64       `json:"mtime"`
	Found   Interpreter `json:"found"` // zero: not one that can be used
}

var pythonName = pattern.Of(`^python(3(\.[0-9]+)?)?$`)

// Interpreters lists every CPython that functions can run on: on PATH, in pyenv's and in uv's folders.
// Order is that of preference: newest first, of one version the one found first. What was found is
// remembered, so that a second call starts no process.
func (s *Store) Interpreters(ctx context.Context) ([]Interpreter, error) {
	s.interpreters.Lock()
	defer s.interpreters.Unlock()
	seen, err := s.survey(ctx)
	return seen.all, err
}

// seen is what there is of interpreters: all, and those called python3, in the order of PATH.
type seen struct {
	all   []Interpreter
	named []string
	at    time.Time
}

// lookAgain is how long what was seen counts: to look takes 3 ms, and each step asks.
const lookAgain = time.Second

// recent is what was seen a moment ago, or is there now.
func (s *Store) recent(ctx context.Context) (seen, error) {
	s.interpreters.Lock()
	defer s.interpreters.Unlock()
	if time.Since(s.seen.at) < lookAgain {
		return s.seen, nil
	}
	found, err := s.survey(ctx)
	if err == nil {
		found.at = time.Now()
		s.seen = found
	}
	return found, err
}

// survey looks for them; s.interpreters is held.
func (s *Store) survey(ctx context.Context) (seen, error) {
	path := filepath.Join(s.dir, "interpreters.json")
	known := map[string]probed{}
	if b, err := os.ReadFile(path); err == nil {
		if json.Unmarshal(b, &known) != nil {
			known = map[string]probed{} // only a cache
		}
	}

	candidates := s.candidates()
	results := make([]probed, len(candidates))
	var changed sync.Once
	dirty := false
	work, wctx := errgroup.WithContext(ctx)
	work.SetLimit(4)
	for i, c := range candidates {
		st, err := os.Stat(c)
		if err != nil {
			continue // gone since it was listed
		}
		p, ok := known[c]
		if ok && p.Size == st.Size() && p.ModTime == st.ModTime().UnixNano() {
			results[i] = p
			continue
		}
		work.Go(func() error {
			found, err := probe(wctx, c)
			if errors.Is(err, errProbeTimeout) {
				return nil // on a busy machine; asked again next time
			} else if err != nil {
				return err
			}
			results[i] = probed{Size: st.Size(), ModTime: st.ModTime().UnixNano(), Found: found}
			changed.Do(func() { dirty = true })
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		return seen{}, err
	}
	if dirty {
		fresh := make(map[string]probed, len(candidates))
		for i, c := range candidates {
			if results[i].ModTime != 0 {
				fresh[c] = results[i]
			}
		}
		b, err := json.MarshalIndent(fresh, "", " ")
		if err != nil {
			return seen{}, err
		}
		if err := writeFile(path, b, 0o644); err != nil {
			return seen{}, err
		}
	}

	var found []Interpreter
	for _, r := range results {
		if r.Found.Path != "" && !slices.Contains(found, r.Found) {
			found = append(found, r.Found)
		}
	}
	slices.SortStableFunc(found, func(a, b Interpreter) int {
		va, _ := parsePyVersion(a.Version)
		vb, _ := parsePyVersion(b.Version)
		return vb.compare(va)
	})
	named := slices.DeleteFunc(candidates, func(c string) bool { return filepath.Base(c) != "python3" })
	return seen{all: found, named: named}, nil
}

// candidates are the files that may be an interpreter, in order of preference.
func (s *Store) candidates() []string {
	var dirs, out []string
	dirs = append(dirs, filepath.SplitList(s.env.get("PATH"))...)
	home := s.env.get("HOME")
	under := func(variable, fallback, pattern string) {
		base := s.env.get(variable)
		if base == "" {
			base = filepath.Join(home, fallback)
		}
		found, err := filepath.Glob(filepath.Join(base, pattern))
		if err == nil { // it fails on a malformed pattern only
			dirs = append(dirs, found...)
		}
	}
	under("PYENV_ROOT", ".pyenv", "versions/*/bin")
	under("UV_PYTHON_INSTALL_DIR", ".local/share/uv/python", "*/bin")
	for _, dir := range dirs {
		if !filepath.IsAbs(dir) || filepath.Base(dir) == "shims" { // what shims lead to is found by itself
			continue
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // PATH may name folders that are not there
		}
		for _, e := range entries {
			name := filepath.Join(dir, e.Name())
			if pythonName().MatchString(e.Name()) && !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}

// probe asks one file what it is. A file that is no Python, or an old one, is a zero Interpreter.
func probe(ctx context.Context, path string) (Interpreter, error) {
	one, cancel := context.WithTimeoutCause(ctx, probeTimeout, errProbeTimeout)
	defer cancel()
	cmd := exec.CommandContext(one, path, "-I", "-S", "-c", probeScript)
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if cause := context.Cause(one); cause != nil {
		return Interpreter{}, cause
	}
	var said struct {
		Path    string `json:"path"`
		Prefix  string `json:"prefix"`
		Version string `json:"version"`
		Usable  bool   `json:"usable"`
	}
	if err != nil || json.Unmarshal(bytes.TrimSpace(out), &said) != nil || !said.Usable {
		return Interpreter{}, nil
	}
	v, ok := parsePyVersion(said.Version)
	if !ok || v.compare(oldestPython) < 0 || !strings.HasPrefix(said.Path, strings.TrimSuffix(said.Prefix, "/")+"/") {
		return Interpreter{}, nil
	}
	return Interpreter{Path: said.Path, Version: said.Version, Minor: v.minor(), Prefix: said.Prefix}, nil
}

// choose finds the interpreter for want. Without a wish it is the first python3 on PATH, which is what
// the user gets when typing python3, else the newest.
func (s *Store) choose(ctx context.Context, label string, want pyRange) (Interpreter, error) {
	there, err := s.recent(ctx)
	if err != nil {
		return Interpreter{}, err
	}
	all := there.all
	if len(want.clauses) != 1 || want.clauses[0].op != "==" {
		for _, c := range there.named {
			real, err := filepath.EvalSymlinks(c)
			if err != nil {
				continue // a dangling link
			}
			for _, p := range all {
				if v, _ := parsePyVersion(p.Version); p.Path == real && want.allows(v) {
					return p, nil
				}
			}
			break
		}
	}
	for _, p := range all {
		if v, _ := parsePyVersion(p.Version); want.allows(v) {
			return p, nil
		}
	}
	return Interpreter{}, noPython(label, want.text, all)
}

func noPython(label, want string, all []Interpreter) error {
	var have []string
	for _, p := range all {
		have = append(have, p.Version+" ("+p.Path+")")
	}
	if len(have) == 0 {
		return ErrNoPython.Errorf("%s needs Python %s; none from %s on was found on PATH, in pyenv or in uv's folder", label, want, oldestPython.minor()).
			WithNext("install one: uv python install 3.12, or your system's package python3")
	}
	return ErrNoPython.Errorf("%s needs Python %s. Here: %s", label, want, strings.Join(have, ", ")).
		WithNext("install it: uv python install '"+want+"'", "or change python= of the environment")
}
