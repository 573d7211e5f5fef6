package image_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/image"
	"tarn.dev/tarn/internal/runtime"
	"tarn.dev/tarn/internal/runtime/process"
)

var shared struct {
	once sync.Once
	dir  string
}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == process.Role {
		os.Exit(process.InitMain())
	}
	if text := os.Getenv(victimVariable); text != "" {
		if err := dieEnsuring(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if shared.dir != "" {
		if err := os.RemoveAll(shared.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// userEnv is the environment of this process with uv on PATH, so that a host without it fetches it once
// and not for every test.
func userEnv() []string {
	if _, err := exec.LookPath("uv"); err == nil {
		return os.Environ()
	}
	shared.once.Do(func() {
		var err error
		if shared.dir, err = os.MkdirTemp("", "tarn-image-test-*"); err != nil {
			panic(err)
		}
		boxes, err := process.New(process.Place{Dir: filepath.Join(shared.dir, "boxes")}, level())
		if err != nil {
			panic(err)
		}
		defer boxes.Close() //nolint:errcheck // its folder goes with the rest
		s, err := image.Open(shared.dir, os.Environ(), boxes)
		if err == nil {
			_, err = s.Resolve(context.Background(), shared.dir, []image.Spec{{Packages: []string{"six"}}})
		}
		if err != nil {
			panic(err)
		}
		fetched, err := filepath.Glob(filepath.Join(shared.dir, "uv-*"))
		if err != nil || len(fetched) != 1 {
			panic(fmt.Sprint("uv was not fetched: ", fetched, err))
		}
		if err := os.Symlink(fetched[0], filepath.Join(shared.dir, "views", "uv")); err != nil {
			panic(err)
		}
	})
	return append(os.Environ(), "PATH="+filepath.Join(shared.dir, "views")+string(os.PathListSeparator)+os.Getenv("PATH"))
}

// nowhere is an environment in which every use of the network fails.
func nowhere() []string {
	return append(userEnv(), "UV_OFFLINE=1", "UV_DEFAULT_INDEX=http://127.0.0.1:9/simple", "PIP_INDEX_URL=http://127.0.0.1:9/simple",
		"PIP_FIND_LINKS=", "HTTPS_PROXY=http://127.0.0.1:9")
}

// level is the strongest that this user has here, as for the server.
var level = sync.OnceValue(func() runtime.Level {
	dir, err := os.MkdirTemp("", "level")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it is empty
	found, _, err := process.Choose(context.Background(), process.Place{Dir: dir}, os.Getenv("TARN_LEVEL"))
	if err != nil {
		panic(err)
	}
	return found
})

func open(t *testing.T, dir string, env []string) *image.Store {
	t.Helper()
	return openAt(t, level(), dir, env)
}

func openAt(t *testing.T, level runtime.Level, dir string, env []string) *image.Store {
	t.Helper()
	place, err := os.MkdirTemp("", "boxes") // sockets of boxes have short paths
	if err != nil {
		t.Fatal(err)
	}
	boxes, err := process.New(process.Place{Dir: place}, level)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		left, err := filepath.Glob(filepath.Join(place, "sandbox-*"))
		if err = errors.Join(err, boxes.Close(), os.RemoveAll(place)); err != nil || len(left) > 0 {
			t.Errorf("sandboxes left: %v, %v", left, err)
		}
	})
	s, err := image.Open(dir, env, boxes)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// scratch is a temporary folder that a view may lie in: its folders are read-only.
func scratch(t *testing.T) string {
	dir := t.TempDir()
	t.Cleanup(func() {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				return os.Chmod(path, 0o755)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	return dir
}

func run(t *testing.T, v image.View, code string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), v.Python.Path, "-S", "-B", "-c", code)
	cmd.Env = []string{"PYTHONPATH=" + v.SitePackages}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestFromSpecToImport(t *testing.T) {
	t.Parallel()
	ctx, cache, project := t.Context(), scratch(t), t.TempDir()
	s := open(t, cache, userEnv())
	specs := []image.Spec{
		{Name: "old", Packages: []string{"idna==3.4", "six"}},
		{Name: "new", Packages: []string{"idna==3.7"}, Vars: map[string]string{"A": "1"}},
		{Name: "none"},
	}
	locks, err := s.Resolve(ctx, project, specs)
	if err != nil {
		t.Fatal(err)
	}
	if len(locks) != 3 || !locks[0].Has("six") || locks[1].Packages[0].Version != "3.7" || len(locks[2].Packages) != 0 {
		t.Fatalf("locks %+v", locks)
	}
	for _, p := range locks[0].Packages {
		if !strings.HasSuffix(p.File, ".whl") || len(p.SHA256) != 64 {
			t.Errorf("package %+v", p)
		}
	}
	text := read(t, filepath.Join(project, image.LockFile))

	// From here on nothing may touch a network, and known specs need neither uv nor Python.
	offline := open(t, cache, append(nowhere(), "PATH=", "HOME=/nonexistent", "PYENV_ROOT=", "UV_PYTHON_INSTALL_DIR="))
	reordered := specs[0]
	reordered.Packages, reordered.Name = []string{" six", "idna==3.4", "six"}, "other"
	again, err := offline.Resolve(ctx, project, append([]image.Spec{reordered}, specs[1:]...))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(locks, again); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(text, read(t, filepath.Join(project, image.LockFile))); diff != "" {
		t.Errorf("the second resolve changed the file: %s", diff)
	}

	for i, want := range []string{"3.4", "3.7"} {
		v, err := s.Ensure(ctx, locks[i], nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := run(t, v, "import idna; print(idna.__version__)"); got != want {
			t.Errorf("idna is %s, want %s", got, want)
		}
		checkView(t, v)
		unplugged, err := open(t, cache, nowhere()).Ensure(ctx, locks[i], nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(v, unplugged); diff != "" {
			t.Error(diff)
		}
	}
	if v, err := offline.Ensure(ctx, locks[2], nil); err == nil {
		t.Errorf("without any Python: %+v", v)
	}
	if v, err := s.Ensure(ctx, locks[2], nil); err != nil || run(t, v, "print(1)") != "1" {
		t.Errorf("an environment without packages: %v", err)
	}

	// A wheel that is in the cache is not downloaded again for another view.
	both, err := s.Resolve(ctx, project, []image.Spec{{Packages: []string{"six"}}})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := open(t, cache, append(userEnv(), "UV_OFFLINE=1")).Ensure(ctx, both[0], nil); err != nil {
		t.Error(err)
	} else {
		run(t, v, "import six")
	}
}

// checkView looks for what every view promises: byte code, nothing writable, nothing half done beside it.
func checkView(t *testing.T, v image.View) {
	t.Helper()
	code := 0
	err := filepath.WalkDir(v.SitePackages, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o222 != 0 {
			t.Errorf("%s is writable", path)
		}
		if strings.HasSuffix(path, ".pyc") {
			code++
		}
		return nil
	})
	if err != nil || code == 0 {
		t.Errorf("%d byte code files, %v", code, err)
	}
	if names := halves(t, filepath.Join(v.SitePackages, "../..")); len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}
}

// halves are what an unfinished view, package or wheel left in a cache.
func halves(t *testing.T, cache string) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"views/.*", "uv/.package-*", "built/.*"} {
		found, err := filepath.Glob(filepath.Join(cache, pattern))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

func TestEnsureAtOnce(t *testing.T) {
	t.Parallel()
	ctx, cache := t.Context(), scratch(t)
	locks, err := open(t, cache, userEnv()).Resolve(ctx, t.TempDir(), []image.Spec{{Packages: []string{"six"}}})
	if err != nil {
		t.Fatal(err)
	}
	views := filepath.Join(cache, "views")
	var all sync.WaitGroup
	found := make([]image.View, 6)
	for i := range found {
		s := open(t, cache, userEnv()) // locks are between processes; stores share no memory
		all.Go(func() {
			v, err := s.Ensure(ctx, locks[0], nil)
			if err != nil {
				t.Error(err)
			}
			found[i] = v
		})
	}
	all.Wait()
	entries, err := os.ReadDir(views)
	if err != nil || len(entries) != 1 {
		t.Fatalf("views: %v, %v", entries, err)
	}
	for _, v := range found {
		if v.SitePackages != found[0].SitePackages {
			t.Errorf("another view: %+v", v)
		}
	}
	checkView(t, found[0])

	// What a process that died left behind is cleared away.
	view := found[0].SitePackages
	half := filepath.Join(views, ".staging-"+filepath.Base(view))
	if err := os.Rename(view, half); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(half, 0o755), os.Remove(filepath.Join(half, "six.py")), os.Chmod(half, 0o555)); err != nil {
		t.Fatal(err)
	}
	v, err := open(t, cache, userEnv()).Ensure(ctx, locks[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	run(t, v, "import six")
	checkView(t, v)
}

func TestEnsureCanceled(t *testing.T) {
	t.Parallel()
	cache := scratch(t)
	s := open(t, cache, userEnv())
	locks, err := s.Resolve(t.Context(), t.TempDir(), []image.Spec{{Packages: []string{"six"}}})
	if err != nil {
		t.Fatal(err)
	}
	gone := errors.New("the user went away")
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err = s.Ensure(ctx, locks[0], func(string) { cancel(gone) }) // the first line comes before uv starts
	if !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
	if entries, err := os.ReadDir(filepath.Join(cache, "views")); err != nil || len(entries)+len(halves(t, cache)) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestResolveErrors(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	for _, c := range []struct {
		name string
		spec image.Spec
		env  []string
		is   *errdef.Error
		says []string
	}{
		{"unknown", image.Spec{Name: "a", Packages: []string{"no-such-package-of-tarn"}}, nil, image.ErrUnsolvable, []string{"environment a", "no-such-package-of-tarn was not found"}},
		{"no such version", image.Spec{Packages: []string{"six==99"}}, nil, image.ErrUnsolvable, []string{"there is no version of six==99"}},
		{"contradiction", image.Spec{Packages: []string{"idna==3.4", "idna==3.7"}}, nil, image.ErrUnsolvable, []string{"idna==3.4", "idna==3.7"}},
		{"not a version", image.Spec{Packages: []string{"six==="}}, nil, image.ErrRequirement, []string{"six"}},
		{"two operators", image.Spec{Packages: []string{"six <<3"}}, nil, image.ErrRequirement, []string{"<<"}},
		{"empty", image.Spec{Packages: []string{""}}, nil, image.ErrRequirement, nil},
		{"option", image.Spec{Packages: []string{"--index-url http://127.0.0.1:9/"}}, nil, image.ErrRequirement, nil},
		{"include", image.Spec{Packages: []string{"-r /etc/passwd"}}, nil, image.ErrRequirement, []string{"/etc/passwd"}},
		{"second line", image.Spec{Packages: []string{"six\n-r /etc/passwd"}}, nil, image.ErrRequirement, nil},
		{"line in a marker", image.Spec{Packages: []string{"six ;\n-r /etc/passwd"}}, nil, image.ErrRequirement, nil},
		{"line before a version", image.Spec{Packages: []string{"six\n>=1"}}, nil, image.ErrRequirement, nil},
		{"url", image.Spec{Packages: []string{"six @ http://127.0.0.1:9/six-1.0-py3-none-any.whl"}}, nil, image.ErrRequirement, []string{"six @"}},
		{"folder", image.Spec{Packages: []string{"./mypackage"}}, nil, image.ErrRequirement, nil},
		{"index option", image.Spec{Packages: []string{"six"}, Indexes: []string{"--offline"}}, nil, image.ErrRequirement, nil},
		{"python", image.Spec{Name: "x", Python: "3.99"}, nil, image.ErrNoPython, []string{"environment x needs Python 3.99. Here: 3."}},
		{"python text", image.Spec{Python: "three"}, nil, image.ErrRequirement, []string{"three"}},
		{"offline", image.Spec{Packages: []string{"six"}}, []string{"UV_OFFLINE=1"}, image.ErrOffline, []string{"network"}},
		{"index gone", image.Spec{Packages: []string{"six"}}, []string{"UV_DEFAULT_INDEX=http://127.0.0.1:9/simple", "UV_HTTP_RETRIES=0"}, image.ErrOffline, []string{"127.0.0.1:9"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := cache
			if c.env != nil {
				dir = t.TempDir() // the other cases may have filled the cache
			}
			project := t.TempDir()
			_, err := open(t, dir, append(userEnv(), c.env...)).Resolve(t.Context(), project, []image.Spec{{}, c.spec})
			if !errors.Is(err, c.is) {
				t.Fatalf("got %v (%s), want %s", err, errdef.As(err).Reason, c.is.Reason)
			}
			for _, text := range c.says {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%q does not say %q", err, text)
				}
			}
			if _, err := os.Stat(filepath.Join(project, image.LockFile)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a failed resolve wrote tarn.lock: %v", err)
			}
		})
	}
}

// Writers of one tarn.lock that come at once lose nothing.
func TestResolveAtOnce(t *testing.T) {
	t.Parallel()
	cache, project := t.TempDir(), t.TempDir()
	specs := make([]image.Spec, 12)
	for i := range specs {
		specs[i] = image.Spec{Python: fmt.Sprintf(">=3.%d", i%4), Indexes: []string{fmt.Sprintf("http://127.0.0.1:9/%d", i)}}
	}
	var all sync.WaitGroup
	for _, spec := range specs {
		s := open(t, cache, userEnv())
		all.Go(func() {
			if _, err := s.Resolve(t.Context(), project, []image.Spec{spec}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	locks, err := open(t, cache, append(nowhere(), "PATH=")).Resolve(t.Context(), project, specs)
	if err != nil || len(locks) != len(specs) {
		t.Fatalf("%d locks, %v", len(locks), err)
	}
	if names, err := filepath.Glob(filepath.Join(project, ".*")); err != nil || len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}
}

func TestUpgradeDropsWhatIsNotAsked(t *testing.T) {
	t.Parallel()
	s, project := open(t, t.TempDir(), userEnv()), t.TempDir()
	a, b := image.Spec{Python: ">=3.9"}, image.Spec{Python: ">=3.10"}
	if _, err := s.Resolve(t.Context(), project, []image.Spec{a, b}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Upgrade(t.Context(), project, []image.Spec{b}); err != nil {
		t.Fatal(err)
	}
	text := read(t, filepath.Join(project, image.LockFile))
	if strings.Contains(text, ">=3.9") || !strings.Contains(text, ">=3.10") {
		t.Error(text)
	}
}

// A host without uv gets it from its package index by way of pip.
func TestFetchUV(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("downloads uv")
	}
	cache, home := scratch(t), t.TempDir()
	bin := filepath.Join(home, "bin")
	all, err := open(t, cache, userEnv()).Interpreters(t.Context())
	if err != nil || len(all) == 0 {
		t.Fatalf("%v, %v", all, err)
	}
	withPip := slices.IndexFunc(all, func(p image.Interpreter) bool {
		return exec.CommandContext(t.Context(), p.Path, "-m", "pip", "--version").Run() == nil
	})
	if withPip < 0 {
		t.Fatal("no Python here has pip; tools/setup installs it")
	}
	if err := errors.Join(os.Mkdir(bin, 0o755), os.Symlink(all[withPip].Path, filepath.Join(bin, "python3"))); err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "HOME="+home, "PATH="+bin, "PYENV_ROOT=", "UV_PYTHON_INSTALL_DIR=")
	var said []string
	s := open(t, cache, env)
	lock := image.Lock{Python: all[withPip].Minor, Platform: platform(t, s), Packages: []image.Package{{
		Name: "six", Version: "1.16.0", File: "six-1.16.0-py2.py3-none-any.whl",
		SHA256: "8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254",
	}}}
	v, err := s.Ensure(t.Context(), lock, func(line string) { said = append(said, line) })
	if err != nil {
		t.Fatal(err)
	}
	if got := run(t, v, "import six; print(six.__version__)"); got != "1.16.0" {
		t.Errorf("six is %s", got)
	}
	if !slices.ContainsFunc(said, func(l string) bool { return strings.HasPrefix(l, "fetching uv") }) {
		t.Errorf("uv was not fetched: %q", said)
	}
	// A hash that is not the file's is refused, and leaves nothing behind.
	lock.Packages[0].SHA256 = strings.Repeat("00", 32)
	if _, err := s.Ensure(t.Context(), lock, nil); err == nil {
		t.Error("a package with another hash was installed")
	}
	checkView(t, v)
}

func platform(t *testing.T, s *image.Store) string {
	t.Helper()
	locks, err := s.Resolve(t.Context(), t.TempDir(), []image.Spec{{}})
	if err != nil {
		t.Fatal(err)
	}
	return locks[0].Platform
}

// A function of tables gets the pinned pyarrow unless its own packages bring one, or polars.
func TestWithArrow(t *testing.T) {
	t.Parallel()
	s, project := open(t, t.TempDir(), userEnv()), t.TempDir()
	specs := []image.Spec{
		image.WithArrow(image.Spec{}),
		image.WithArrow(image.Spec{Packages: []string{"pyarrow<20"}}),
		image.WithArrow(image.Spec{Packages: []string{"polars"}}),
		{Packages: []string{"six"}},
	}
	locks, err := s.Resolve(t.Context(), project, specs)
	if err != nil {
		t.Fatal(err)
	}
	version := func(l image.Lock, name string) string {
		for _, p := range l.Packages {
			if p.Name == name {
				return p.Version
			}
		}
		return ""
	}
	if v := version(locks[0], "pyarrow"); v == "" {
		t.Error("a function without packages got no pyarrow")
	}
	if v := version(locks[1], "pyarrow"); !strings.HasPrefix(v, "19.") {
		t.Errorf("pyarrow<20 became %q", v)
	}
	if version(locks[2], "pyarrow") != "" || version(locks[2], "polars") == "" {
		t.Errorf("polars: %+v", locks[2])
	}
	if locks[3].Has("pyarrow") {
		t.Error("a function without tables got pyarrow")
	}

	// The lock file of a project that was resolved on another platform: the same versions are meant here.
	path := filepath.Join(project, image.LockFile)
	text := read(t, path)
	here, there := locks[1].Platform, "linux-riscv64-glibc"
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, here, there)), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := s.Resolve(t.Context(), project, specs[:3])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(locks[:3], again); diff != "" {
		t.Error(diff)
	}
	if both := read(t, path); strings.Count(both, there) < 4 || strings.Count(both, "platform = \""+here) != 3 {
		t.Errorf("the entries of the other platform are lost: %s", both)
	}
}

func TestTwoPandas(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("downloads two pandas")
	}
	s := open(t, scratch(t), userEnv())
	locks, err := s.Resolve(t.Context(), t.TempDir(), []image.Spec{
		{Python: ">=3.9,<3.13", Packages: []string{"pandas==2.2.3"}},
		image.WithArrow(image.Spec{Python: ">=3.9,<3.13", Packages: []string{"pandas==2.1.4"}}),
	})
	if err != nil {
		t.Fatal(err)
	}
	if locks[0].Has("pyarrow") || !locks[1].Has("pyarrow") {
		t.Errorf("pyarrow: %t, %t", locks[0].Has("pyarrow"), locks[1].Has("pyarrow"))
	}
	for i, want := range []string{"2.2.3", "2.1.4"} {
		v, err := s.Ensure(t.Context(), locks[i], nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := run(t, v, "import pandas; print(pandas.__version__)"); got != want {
			t.Errorf("pandas is %s, want %s", got, want)
		}
		if locks[i].Has("pyarrow") {
			run(t, v, "import pyarrow.pandas_compat") // it does not import beside every numpy
		}
		checkView(t, v)
	}
}

func TestSyncVenv(t *testing.T) {
	t.Parallel()
	s, project := open(t, scratch(t), userEnv()), t.TempDir()
	locks, err := s.Resolve(t.Context(), project, []image.Spec{{Packages: []string{"six"}}, {}})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(project, ".venv")
	python := filepath.Join(dir, "bin", "python")
	for i, want := range []bool{true, false} { // the second takes away what the first brought
		if err := s.SyncVenv(t.Context(), locks[i], dir, nil); err != nil {
			t.Fatal(err)
		}
		if err := exec.CommandContext(t.Context(), python, "-c", "import six").Run(); (err == nil) != want {
			t.Errorf("import six: %v", err)
		}
	}
}
