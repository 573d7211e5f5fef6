package image_test

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/image"
	"tarn.dev/tarn/internal/image/imagetest"
	"tarn.dev/tarn/internal/runtime"
	"tarn.dev/tarn/internal/runtime/process"
)

// confined are the levels that hold who is hostile.
var confined = []runtime.Level{runtime.UserNS, runtime.Full}

// need skips a test where the host lacks a level: CI has all of them, as root.
func need(t *testing.T, level runtime.Level) {
	t.Helper()
	if _, _, err := process.Choose(t.Context(), process.Place{Dir: t.TempDir()}, string(level)); err != nil {
		t.Skip(err)
	}
}

// sdist writes a source distribution of version 1.0 into a folder that serves as package index: a build back end in its own
// tree, which needs no package to build, and an extra line of python in it that is run when a wheel is made.
func sdist(t *testing.T, index, name, attack string) image.Package {
	t.Helper()
	const backend = `import os, sys, zipfile

def build_wheel(to, config_settings=None, metadata_directory=None):
    file = "{name}-1.0-py3-none-any.whl"
    info = "{name}-1.0.dist-info/"
    entries = {
        "{name}.py": "result = %r\n" % (attack(to),),
        info + "METADATA": "Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        info + "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        info + "RECORD": "{name}.py,,\n",
    }
    with zipfile.ZipFile(os.path.join(to, file), "w") as z:
        for path, text in entries.items():
            z.writestr(path, text)
        extra(z)
    return file

def extra(z):
    pass

def attack(to):
    pass

`
	files := map[string]string{
		"pyproject.toml": "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n",
		"PKG-INFO":       "Metadata-Version: 2.2\nName: " + name + "\nVersion: 1.0\n",
		"backend.py":     strings.ReplaceAll(backend, "{name}", name) + attack,
	}
	path := filepath.Join(index, name+"-1.0.tar.gz")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(f)
	w := tar.NewWriter(z)
	for file, text := range files {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Name: name + "-1.0/" + file, Mode: 0o644, Size: int64(len(text))}))
		_, werr := io.WriteString(w, text)
		err = errors.Join(err, werr)
	}
	if err := errors.Join(err, w.Close(), z.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return image.Package{Name: image.Normalize(name), Version: "1.0", File: filepath.Base(path), SHA256: fmt.Sprintf("%x", sha256.Sum256([]byte(read(t, path))))}
}

// only is an environment in which packages come from a folder.
func only(index string) []string {
	return append(userEnv(), "UV_NO_INDEX=1", "UV_OFFLINE=1", "UV_FIND_LINKS="+index)
}

// A build tries what a hostile package would. Its wheel tells what came of it: nothing.
func TestHostileBuild(t *testing.T) {
	t.Parallel()
	for _, level := range confined {
		t.Run(string(level), func(t *testing.T) {
			t.Parallel()
			need(t, level)
			host, cache, index := t.TempDir(), scratch(t), t.TempDir()
			home := filepath.Join(host, "home")
			write(t, host, map[string]string{
				"server/token": "token of the server", "server/socket": "", "home/.ssh/id_ed25519": "key of the user", "home/.netrc": "machine x password netrc",
				"project/secret.txt": "file of a project",
			})
			// Another package of the same cache, and its environment.
			imagetest.Wheel(t, index, "tarn_test_victim", "1.0", map[string]string{"tarn_test_victim.py": "who = 'itself'\n"})
			env := append(only(index), "HOME="+home, "TARN_TOKEN=token in a variable")
			s := openAt(t, level, cache, env)
			locks, err := s.Resolve(t.Context(), t.TempDir(), []image.Spec{{Packages: []string{"tarn-test-victim"}}})
			if err != nil {
				t.Fatal(err)
			}
			victim, err := s.Ensure(t.Context(), locks[0], nil)
			if err != nil {
				t.Fatal(err)
			}
			before := tree(t, cache)

			attacks := fmt.Sprintf(`
HOST, CACHE, VIEW = %q, %q, %q

def attack(to):
    import glob, signal, socket, subprocess
    got = []
    def attempt(name, do):
        try:
            found = do()
        except Exception as e:
            return
        if found:
            got.append("%%s: %%.60r" %% (name, found))
    def overwrite(path):
        with open(path, "w") as f:
            f.write("who = 'poisoned'\n")
        return path
    for path in ["server/token", "home/.ssh/id_ed25519", "home/.netrc", "project/secret.txt"]:
        attempt("read " + path, lambda: open(os.path.join(HOST, path)).read())
        attempt("read in home", lambda: open(os.path.expanduser("~/" + path.partition("/")[2])).read())
    attempt("list the host", lambda: os.listdir(HOST))
    attempt("shadow", lambda: open("/etc/shadow").read())
    attempt("token", lambda: os.environ.get("TARN_TOKEN"))
    attempt("environments", lambda: os.listdir(os.path.dirname(VIEW)))
    attempt("the cache", lambda: os.listdir(CACHE))
    attempt("the environment", lambda: open(VIEW + "/tarn_test_victim.py").read())
    attempt("change it", lambda: overwrite(VIEW + "/tarn_test_victim.py"))
    for path in glob.glob(CACHE + "/**/tarn_test_victim.py", recursive=True) + glob.glob("/mnt/**/tarn_test_victim.py", recursive=True):
        attempt("poison " + path, lambda: overwrite(path))
    for dir in ["/", "/usr/lib/python3", "/etc", "/mnt", "/var/tmp", os.path.dirname(os.__file__), HOST]:
        attempt("write to " + dir, lambda: overwrite(os.path.join(dir, "x")))
    def parents():
        for pid in filter(str.isdigit, os.listdir("/proc")):
            for line in open("/proc/%%s/environ" %% pid).read().split("\0"):
                if "TOKEN" in line or "netrc" in line:
                    return line
    attempt("variables of others", parents)
    attempt("the supervisor", lambda: open("/proc/1/environ").read())
    attempt("kill the supervisor", lambda: os.kill(1, signal.SIGKILL))
    def unix():
        s = socket.socket(socket.AF_UNIX)
        s.connect(os.path.join(HOST, "server/socket"))
        return "connected"
    attempt("the server's socket", unix)
    attempt("mount", lambda: subprocess.run(["mount", "-t", "tmpfs", "x", "/mnt"], check=True))
    # A daemon that leaves session and parent, and would change the wheel that was checked.
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            import time
            os.closerange(0, 256) # uv waits for the end of its output
            while True:
                for path in glob.glob("/sandbox/**/*.whl", recursive=True):
                    attempt("", lambda: open(path + ".daemon", "w"))
                time.sleep(0.01)
        os._exit(0)
    return got
`, host, cache, victim.SitePackages)
			p := sdist(t, index, "tarn_test_hostile", attacks)
			v, err := s.Ensure(t.Context(), image.Lock{Python: victim.Lock.Python, Platform: victim.Lock.Platform, Packages: []image.Package{p}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := run(t, v, "import tarn_test_hostile; print(tarn_test_hostile.result)"); got != "[]" {
				t.Errorf("the build got away with %s", got)
			}
			if got := run(t, victim, "import tarn_test_victim; print(tarn_test_victim.who)"); got != "itself" {
				t.Errorf("the other package is %s", got)
			}
			for path, sum := range tree(t, cache) {
				if old, ok := before[path]; ok && old != sum {
					t.Errorf("%s was changed", path)
				}
			}
			checkView(t, v)
		})
	}
}

// tree is the hash of each file below dir that holds Python.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	sums := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.Contains(path, "tarn_test_victim") {
			sums[path] = fmt.Sprintf("%x", sha256.Sum256([]byte(read(t, path))))
		}
		return err
	})
	if err != nil || len(sums) == 0 {
		t.Fatalf("%d files, %v", len(sums), err)
	}
	return sums
}

// What is not the file that was locked is refused, and the error names package, version and both hashes; so is what would have to be built
// where nobody allowed it, and a wheel that a build spoilt.
func TestRefusedPackages(t *testing.T) {
	t.Parallel()
	index := t.TempDir()
	imagetest.Wheel(t, index, "tarn_test_wheel", "1.0", map[string]string{"tarn_test_wheel.py": ""})
	imagetest.Wheel(t, index, "tarn_test_escape", "1.0", map[string]string{"tarn_test_escape.py": "", "../../../tarn_test_outside.py": "x = 1"})
	hash := func(file string) string {
		return fmt.Sprintf("%x", sha256.Sum256([]byte(read(t, filepath.Join(index, file)))))
	}
	locked := func(name string) image.Package {
		file := name + "-1.0-py3-none-any.whl"
		return image.Package{Name: image.Normalize(name), Version: "1.0", File: file, SHA256: hash(file)}
	}
	good := locked("tarn_test_wheel")
	other := good
	other.SHA256 = strings.Repeat("00", 32)
	sources := sdist(t, index, "tarn_test_sources", "")
	otherSources := sources
	otherSources.SHA256 = other.SHA256
	spoilt := func(name, attack string) image.Package {
		return sdist(t, index, "tarn_test_"+name, attack)
	}
	for _, c := range []struct {
		name string
		p    image.Package
		is   *errdef.Error
		says []string
	}{
		{"another wheel", other, image.ErrHash, []string{"tarn-test-wheel 1.0", "sha256:" + other.SHA256, "sha256:" + good.SHA256}},
		{"other sources", otherSources, image.ErrHash, []string{"tarn-test-sources 1.0", "sha256:" + other.SHA256, "sha256:" + sources.SHA256}},
		{"a path out of a wheel", locked("tarn_test_escape"), nil, nil}, // uv leaves that file out
		{"a build that fails", spoilt("fails", "def attack(to):\n    raise SystemExit('the compiler is missing')\n"), image.ErrBuild, []string{"tarn-test-fails", "the compiler is missing"}},
		{"a path out of a built wheel", spoilt("path", "def extra(z):\n    z.writestr('../outside.py', '')\n"), image.ErrUnsafe, []string{"../outside.py"}},
		{"an absolute path", spoilt("absolute", "def extra(z):\n    z.writestr('/outside.py', '')\n"), image.ErrUnsafe, []string{"/outside.py"}},
		{"a link", spoilt("link", "def extra(z):\n    i = zipfile.ZipInfo('link.py')\n    i.external_attr = 0o120777 << 16\n    z.writestr(i, '/etc/passwd')\n"), image.ErrUnsafe, []string{"link.py"}},
		{"a path twice", spoilt("twice", "def extra(z):\n    z.writestr('x.py', '1')\n    z.writestr('x.py', '2')\n"), image.ErrUnsafe, []string{"x.py"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cache := scratch(t)
			s := open(t, cache, only(index))
			_, err := s.Ensure(t.Context(), image.Lock{Python: minor(t, s), Platform: platform(t, s), Packages: []image.Package{c.p}}, nil)
			if c.is == nil && err != nil || c.is != nil && !errors.Is(err, c.is) {
				t.Fatalf("got %v, want %v", err, c.is)
			}
			for _, text := range c.says {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%q does not say %q", err, text)
				}
			}
			entries, err := os.ReadDir(filepath.Join(cache, "views"))
			if err != nil || c.is != nil && len(entries) != 0 || len(halves(t, cache)) != 0 {
				t.Errorf("left behind: %v, %v, %v", entries, halves(t, cache), err)
			}
			err = filepath.WalkDir(cache, func(path string, d fs.DirEntry, err error) error {
				if err == nil && strings.Contains(d.Name(), "outside.py") {
					t.Errorf("%s was written", path)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("sources without leave", func(t *testing.T) {
		t.Parallel()
		s, project := open(t, scratch(t), only(index)), t.TempDir()
		spec := image.Spec{Packages: []string{"tarn-test-sources"}}
		if _, err := s.Resolve(t.Context(), project, []image.Spec{spec}); !errors.Is(err, image.ErrSources) || !strings.Contains(err.Error(), "tarn-test-sources") {
			t.Fatalf("got %v", err)
		}
		spec.Build = true
		locks, err := s.Resolve(t.Context(), project, []image.Spec{spec})
		if err != nil || locks[0].Packages[0] != sources {
			t.Fatalf("%+v, %v", locks, err)
		}
		// A lock file in which somebody wrote sources where they may not be built.
		path := filepath.Join(project, image.LockFile)
		text := strings.Replace(read(t, path), ",\"build\":true", "", 1)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		spec.Build = false
		if _, err := s.Resolve(t.Context(), project, []image.Spec{spec}); !errors.Is(err, image.ErrLockFile) || !strings.Contains(err.Error(), "tarn-test-sources") {
			t.Errorf("got %v", err)
		}
	})
}

func minor(t *testing.T, s *image.Store) string {
	t.Helper()
	locks, err := s.Resolve(t.Context(), t.TempDir(), []image.Spec{{}})
	if err != nil {
		t.Fatal(err)
	}
	return locks[0].Python
}
