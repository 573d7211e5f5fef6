package image

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write golden files again")

const sha = "90b77e79eaa3eba6de819a0c442c0b4ceefc341a7a2ab77d7562bf49f425c5c2"

// golden is what testdata/tarn.lock holds, in another order than it is written in.
func golden() *lockFile {
	at := time.Date(2026, 11, 21, 2, 14, 15, 0, time.UTC)
	return &lockFile{Version: 1, Environments: []entry{
		{
			Spec: Spec{Python: ">=3.10,<3.13", Packages: []string{"idna>=3", "six"}}.SpecKey(), Platform: "linux-x86_64-glibc", Python: "3.11", Resolved: at,
			Packages: []Package{
				{Name: "idna", Version: "3.4", File: "idna-3.4-py3-none-any.whl", SHA256: sha},
				{Name: "six", Version: "1.17.0", File: "six-1.17.0-py2.py3-none-any.whl", SHA256: strings.Repeat("0a", 32)},
			},
		},
		{
			Spec: Spec{Packages: []string{"./libs/geo[fast]"}}.SpecKey(), Platform: "linux-x86_64-glibc", Python: "3.11", Resolved: at,
			Packages: []Package{{Name: "geo", Version: "1.0", Path: "./libs/geo", SHA256: sha}},
		},
		{Spec: Spec{Packages: []string{"six ; python_version < '3.9'"}}.SpecKey(), Platform: "linux-x86_64-glibc", Python: "3.11", Resolved: at, Indexes: []string{"http://127.0.0.1:9/simple", "own=http://127.0.0.1:9/own"}},
		{Spec: Spec{}.SpecKey(), Platform: "linux-x86_64-glibc", Python: "3.12", Resolved: at},
		{Spec: Spec{}.SpecKey(), Platform: "linux-aarch64-glibc", Python: "3.12", Resolved: at},
	}}
}

func TestLockFileGolden(t *testing.T) {
	t.Parallel()
	path := filepath.Join("testdata", LockFile)
	if *update {
		if err := os.WriteFile(path, golden().encode(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(golden().encode())); diff != "" {
		t.Error(diff)
	}
	l, err := readLockFile("testdata")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(l.encode())); diff != "" {
		t.Error(diff)
	}
	// Lock ids are part of every key: if one changes, the world is computed anew.
	e, ok := l.find(golden().Environments[0].Spec, "linux-x86_64-glibc")
	if !ok {
		t.Fatal("the first spec is not found")
	}
	if id := e.lock(Spec{}).ID; id != "556de246337bd5426c21638735e8c13fb96cdba29e15edcb340db800ef2dd9f8" {
		t.Errorf("the id of a lock is %s", id)
	}
	a, b := e.lock(Spec{Vars: map[string]string{"A": "1"}}), e.lock(Spec{})
	if a.ID == b.ID || a.viewID() != b.viewID() {
		t.Error("variables belong to a lock's identity, and not to its packages")
	}
}

func TestLockFileHostile(t *testing.T) {
	t.Parallel()
	good := string(golden().encode())
	for name, text := range map[string]string{
		"conflict markers":  strings.Replace(good, "packages = [\n", "<<<<<<< HEAD\npackages = [\n=======\n", 1),
		"later version":     strings.Replace(good, "version = 1", "version = 2", 1),
		"no version":        strings.Replace(good, "version = 1\n", "", 1),
		"cut off":           good[:len(good)/2],
		"option as name":    strings.Replace(good, `"idna"`, `"--index-url=x"`, 1),
		"line in a version": strings.Replace(good, `"3.4"`, `"3.4\n-r x"`, 1),
		"short hash":        strings.Replace(good, sha, "90b7", 1),
		"path as file":      strings.Replace(good, `"idna-3.4-py3-none-any.whl"`, `"../x.whl"`, 1),
		"path of elsewhere": strings.Replace(good, `"./libs/geo"`, `"../geo"`, 1),
		"path and file":     strings.Replace(good, `path = "./libs/geo"`, `path = "./libs/geo", file = "x.whl"`, 1),
		"no python":         strings.Replace(good, `python = "3.11"`, `python = ""`, 1),
		"option as index":   strings.Replace(good, `"http://127.0.0.1:9/simple"`, `"--offline"`, 1),
		"binary":            "\x00\x01",
	} {
		dir := t.TempDir()
		if text == good {
			t.Fatalf("%s: nothing was changed", name)
		}
		if err := os.WriteFile(filepath.Join(dir, LockFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readLockFile(dir); !errors.Is(err, ErrLockFile) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLockFileRoundTrip(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		l := &lockFile{Version: 1}
		for range rapid.IntRange(0, 4).Draw(t, "n") {
			spec := Spec{
				Packages: rapid.SliceOfN(rapid.String(), 0, 3).Draw(t, "packages"),
				Indexes:  rapid.SliceOfN(rapid.String(), 0, 2).Draw(t, "indexes"),
			}
			l.put(entry{Spec: spec.SpecKey(), Platform: "p" + rapid.String().Draw(t, "platform"), Python: "3.11", Resolved: time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "at"), 0)})
		}
		first := l.encode()
		if err := os.WriteFile(filepath.Join(dir, LockFile), first, 0o600); err != nil {
			t.Fatal(err)
		}
		back, err := readLockFile(dir)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(first), string(back.encode())); diff != "" {
			t.Fatal(diff)
		}
		for _, e := range l.Environments {
			if _, ok := back.find(e.Spec, e.Platform); !ok {
				t.Fatalf("%q is lost", e.Spec)
			}
		}
	})
}

func TestUVError(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]error{
		"error: No solution found when resolving dependencies\n  cause: Because x was not found":        ErrUnsolvable,
		"  × No solution found when resolving dependencies:\n  ╰─▶ Because x was not found":             ErrUnsolvable,
		"error: No solution found\n\nhint: Packages were unavailable because the network was disabled.": ErrOffline,
		"error: failed to write: No space left on device (os error 28)":                                 ErrDiskFull,
		"error: something new": ErrResolver,
		"":                     ErrResolver,
	} {
		err := uvError("environment a", text)
		if !errors.Is(err, want) || !strings.HasPrefix(err.Error(), "environment a: ") {
			t.Errorf("%q: %s %v", text, err.Reason, err)
		}
		if errors.Is(want, ErrUnsolvable) && err.Error() != "environment a: Because x was not found" {
			t.Errorf("%q", err)
		}
	}
}

func TestScoreWheel(t *testing.T) {
	t.Parallel()
	const platform = "linux-x86_64-glibc"
	// Best first; what does not fit is after the dash.
	order := []string{
		"a-1.0-2-cp311-cp311-manylinux_2_28_x86_64.whl",
		"a-1.0-cp311-cp311-manylinux_2_28_x86_64.whl",
		"a-1.0-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
		"a-1.0-cp39-abi3-manylinux_2_28_x86_64.whl",
		"a-1.0-cp37-abi3-manylinux_2_28_x86_64.whl",
		"a-1.0-cp311-none-any.whl",
		"a-1.0-py310-none-any.whl",
		"a-1.0-py3-none-manylinux2014_x86_64.whl",
		"a-1.0-py2.py3-none-any.whl",
	}
	var last wheelScore
	for i, file := range order {
		score, ok := scoreWheel(file, "3.11", platform)
		if !ok || i > 0 && score.compare(last) >= 0 {
			t.Errorf("%s: fits %t, %+v after %+v", file, ok, score, last)
		}
		last = score
	}
	for _, file := range []string{
		"a-1.0-cp312-cp312-manylinux_2_28_x86_64.whl", "a-1.0-cp311-cp311t-manylinux_2_28_x86_64.whl", "a-1.0-cp312-abi3-manylinux_2_28_x86_64.whl",
		"a-1.0-cp311-cp311-manylinux_2_34_x86_64.whl", "a-1.0-cp311-cp311-musllinux_1_2_x86_64.whl", "a-1.0-cp311-cp311-manylinux_2_28_aarch64.whl",
		"a-1.0-cp311-cp311-macosx_11_0_arm64.whl", "a-1.0-cp311-cp311-win_amd64.whl", "a-1.0-py2-none-any.whl", "a-1.0-py312-none-any.whl", "a-1.0.tar.gz", "a.whl", "",
	} {
		if score, ok := scoreWheel(file, "3.11", platform); ok {
			t.Errorf("%s fits: %+v", file, score)
		}
	}
}

func TestPythonRange(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text    string
		allowed string // of 3.9.18 3.10.13 3.11.7 3.12.1 3.13.0
	}{
		{"", "9 10 11 12 13"},
		{"3.11", "11"},
		{"==3.11", "11"},
		{"==3.11.*", "11"},
		{"3.11.7", "11"},
		{"3.11.8", ""},
		{"3", "9 10 11 12 13"},
		{">=3.10", "10 11 12 13"},
		{">=3.10,<3.13", "10 11 12"},
		{"> 3.11", "12 13"},
		{"<=3.11", "9 10"},
		{"!=3.12.*, >=3.11", "11 13"},
		{"~=3.10", "10 11 12 13"},
		{"~=3.11.5", "11"},
	} {
		r, err := parsePythonRange(c.text)
		if err != nil {
			t.Errorf("%q: %v", c.text, err)
			continue
		}
		var got []string
		for _, s := range []string{"3.9.18", "3.10.13", "3.11.7", "3.12.1", "3.13.0"} {
			if v, _ := parsePyVersion(s); r.allows(v) {
				got = append(got, strings.TrimPrefix(v.minor(), "3."))
			}
		}
		if s := strings.Join(got, " "); s != c.allowed {
			t.Errorf("%q allows %q, want %q", c.text, s, c.allowed)
		}
	}
	for _, text := range []string{"three", "3.x", ">=", "3.11 3.12", "~=3", ">=3.9.*", "=3.9", "3.1.1.1", ">=3.10,"} {
		if _, err := parsePythonRange(text); !errors.Is(err, ErrRequirement) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestEnviron(t *testing.T) {
	t.Parallel()
	e := newEnviron([]string{"PATH=/bin", "AWS_SECRET=x", "https_proxy=p", "PIP_INDEX_URL=http://pip", "PIP_EXTRA_INDEX_URL=http://more", "UV_INDEX=http://own", "broken"})
	want := environ{
		"PATH": "/bin", "PIP_EXTRA_INDEX_URL": "http://more", "PIP_INDEX_URL": "http://pip", "UV_DEFAULT_INDEX": "http://pip", "UV_INDEX": "http://own", "https_proxy": "p",
	}
	if diff := cmp.Diff(want, e); diff != "" {
		t.Error(diff)
	}
}
