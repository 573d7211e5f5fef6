package image_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/image"
	"tarn.dev/tarn/internal/image/imagetest"
)

// project is a folder whose files nobody changes while they are read.
type project string

func (p project) Lay() (string, error) { return string(p), nil }

func (p project) Digest(path string) string {
	h, some := sha256.New(), false
	err := filepath.WalkDir(filepath.Join(string(p), path), func(at string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(at)
		some = true
		fmt.Fprintf(h, "%s %q", strings.TrimPrefix(at, string(p)), b)
		return err
	})
	if err != nil || !some {
		return ""
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// geo is a package of a project as setuptools makes them.
func geo(dependencies, body string) map[string]string {
	return map[string]string{
		"libs/geo/pyproject.toml": "[build-system]\nrequires = [\"setuptools\"]\nbuild-backend = \"setuptools.build_meta\"\n\n" +
			"[project]\nname = \"tarn-test-geo\"\nversion = \"1.0\"\ndependencies = [" + dependencies + "]\n\n[project.scripts]\ntarn-test-geo = \"tarn_test_geo:main\"\n",
		"libs/geo/tarn_test_geo/__init__.py":    body,
		"libs/geo/tarn_test_geo/data/table.txt": "data\n",
	}
}

func lockText(t *testing.T, dir string) string { return read(t, filepath.Join(dir, image.LockFile)) }

// A package of the project is what its folder holds: who edits code finds tarn.lock as it was and runs the new code; who edits
// what it needs has that resolved again, with the versions of everything else.
func TestOwnFolder(t *testing.T) {
	t.Parallel()
	cache, dir := scratch(t), t.TempDir()
	s := open(t, cache, userEnv())
	resolve := func() image.Lock {
		t.Helper()
		locks, err := s.Resolve(t.Context(), dir, []image.Spec{{Packages: []string{"./libs/./geo/", "idna"}, Folder: project(dir)}})
		if err != nil {
			t.Fatal(err)
		}
		return locks[0]
	}
	ensure := func(lock image.Lock) (image.View, string) {
		t.Helper()
		var said []string
		v, err := s.Ensure(t.Context(), lock, func(line string) { said = append(said, line) })
		if err != nil {
			t.Fatal(err)
		}
		return v, strings.Join(said, "\n")
	}
	write(t, dir, geo(`"idna==3.4"`, "def main():\n    print('one')\n"))
	first := resolve()
	one, _ := ensure(first)
	if got := run(t, one, "import tarn_test_geo; tarn_test_geo.main()"); got != "one" {
		t.Errorf("the first run has %s", got)
	}
	if _, err := os.Stat(filepath.Join(one.SitePackages, "bin", "tarn-test-geo")); err != nil {
		t.Error(err)
	}
	filed := lockText(t, dir)
	if !strings.Contains(filed, `name = "tarn-test-geo", version = "1.0", path = "./libs/geo", sha256 = `) || !strings.Contains(filed, `"idna", version = "3.4"`) || strings.Contains(filed, dir) {
		t.Errorf("tarn.lock is %s", filed)
	}

	write(t, dir, map[string]string{"libs/geo/tarn_test_geo/__init__.py": "def main():\n    print('two')\n"})
	if _, ok, err := s.Locked(dir, image.Spec{Packages: []string{"idna", "./libs/geo"}, Folder: project(dir)}); !ok || err != nil {
		t.Errorf("an edit of code asks for a lock: %t, %v", ok, err)
	}
	second := resolve()
	if second.ID == first.ID || lockText(t, dir) != filed {
		t.Errorf("after an edit of code the lock is %s, before %s, and tarn.lock\n%s", second.ID, first.ID, lockText(t, dir))
	}
	two, said := ensure(second)
	if got := run(t, two, "import tarn_test_geo; tarn_test_geo.main()"); got != "two" || !strings.Contains(said, "installing 1 package for") {
		t.Errorf("the second run has %s and says %s", got, said)
	}
	checkView(t, two)

	write(t, dir, geo(`"idna", "six"`, "def main():\n    print('three')\n"))
	third := resolve()
	if text := lockText(t, dir); !strings.Contains(text, `"idna", version = "3.4"`) || !third.Has("six") {
		t.Errorf("after a change of what it needs tarn.lock is\n%s", text)
	}

	// What is there already is found again, without a build, and so is what a branch had before.
	write(t, dir, geo(`"idna==3.4"`, "def main():\n    print('one')\n"))
	if again := resolve(); again.ID != first.ID {
		t.Errorf("the content of the first run has the lock %s", again.ID)
	}
}

// The build of a package sees no network, no credentials and no file of this host; what it asks for beside its pyproject.toml is there.
func TestOwnBuildIsQuiet(t *testing.T) {
	t.Parallel()
	for _, level := range confined {
		t.Run(string(level), func(t *testing.T) {
			t.Parallel()
			need(t, level)
			index := imagetest.NewIndex(t)
			index.Protect("open-sesame")
			for _, name := range []string{"tarn_test_declared", "tarn_test_asked"} {
				index.Add(name, "1.0", map[string]string{name + ".py": "x = 1\n"})
			}
			address, err := url.Parse(index.URL())
			if err != nil {
				t.Fatal(err)
			}
			dir, home := t.TempDir(), t.TempDir()
			write(t, home, map[string]string{".netrc": "machine x password open-sesame"})
			write(t, dir, map[string]string{
				"secret.txt":              "open-sesame",
				"libs/odd/pyproject.toml": "[build-system]\nrequires = [\"tarn-test-declared\"]\nbuild-backend = \"backend:it\"\nbackend-path = [\".\"]\n",
				"libs/odd/backend.py": `import glob, os, socket, zipfile
import tarn_test_declared

class it:
    def get_requires_for_build_wheel():
        return ["tarn-test-asked==1.0"]

    def build_wheel(to):
        import tarn_test_asked
        found = [k for k, v in os.environ.items() if "sesame" in v]
        for path in [` + pyText(filepath.Join(dir, "secret.txt")) + ", " + pyText(filepath.Join(home, ".netrc")) + `, os.path.expanduser("~/.netrc"), "/proc/1/environ"]:
            try:
                found += [path] if "sesame" in open(path).read() else []
            except OSError:
                pass
        try:
            socket.create_connection(("127.0.0.1", ` + address.Port() + `), 1)
            found.append("network")
        except OSError:
            pass
        open("left-behind.txt", "w").close()
        name = "tarn_test_odd-1.0-py3-none-any.whl"
        info = "tarn_test_odd-1.0.dist-info/"
        with zipfile.ZipFile(os.path.join(to, name), "w") as z:
            z.writestr("tarn_test_odd.py", "found = %r\n" % found)
            z.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: tarn_test_odd\nVersion: 1.0\n")
            z.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            z.writestr(info + "RECORD", "")
        return name
`,
			})
			s := openAt(t, level, scratch(t), append(userEnv(), "HOME="+home, "UV_INDEX_OWN_USERNAME=u", "UV_INDEX_OWN_PASSWORD=open-sesame"))
			locks, err := s.Resolve(t.Context(), dir, []image.Spec{{Packages: []string{"./libs/odd"}, Indexes: []string{"own=" + index.URL()}, Folder: project(dir)}})
			if err != nil {
				t.Fatal(err)
			}
			v, err := s.Ensure(t.Context(), locks[0], nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := run(t, v, "import tarn_test_odd; print(tarn_test_odd.found)"); got != "[]" {
				t.Errorf("the build found %s", got)
			}
			if _, err := os.Stat(filepath.Join(dir, "libs/odd/left-behind.txt")); err == nil {
				t.Error("the build wrote into the project")
			}
		})
	}
}

func pyText(s string) string { return fmt.Sprintf("%q", s) }

// A wheel of the project is taken as it is, and another one in its place is another package.
func TestOwnWheel(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, scratch(t), only(t.TempDir()))
	write(t, dir, map[string]string{"wheels/notes.txt": ""})
	spec := image.Spec{Packages: []string{"./wheels/tarn_test_own-1.0-py3-none-any.whl"}, Folder: project(dir)}
	ids := map[string]bool{}
	for _, want := range []string{"1", "2"} {
		imagetest.Wheel(t, filepath.Join(dir, "wheels"), "tarn_test_own", "1.0", map[string]string{"tarn_test_own.py": "x = " + want + "\n"})
		locks, err := s.Resolve(t.Context(), dir, []image.Spec{spec})
		if err != nil {
			t.Fatal(err)
		}
		v, err := s.Ensure(t.Context(), locks[0], nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := run(t, v, "import tarn_test_own; print(tarn_test_own.x)"); got != want || ids[locks[0].ID] {
			t.Errorf("got %s, want %s, lock %s", got, want, locks[0].ID)
		}
		ids[locks[0].ID] = true
		venv := filepath.Join(t.TempDir(), "venv")
		if err := s.SyncVenv(t.Context(), locks[0], venv, nil); err != nil {
			t.Error(err)
		}
		sum := fmt.Sprintf("%x", sha256.Sum256([]byte(read(t, filepath.Join(dir, "wheels/tarn_test_own-1.0-py3-none-any.whl")))))
		if text := lockText(t, dir); !strings.Contains(text, sum) {
			t.Errorf("tarn.lock does not have %s:\n%s", sum, text)
		}
	}
}

// What is asked for by a path that has no package is refused with what was typed.
func TestOwnRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	imagetest.Wheel(t, dir, "tarn_test_other", "1.0", nil)
	write(t, dir, map[string]string{
		"libs/plain/module.py":                     "",
		"libs/toml/pyproject.toml":                 "[build-system\n",
		"libs/url/pyproject.toml":                  "[build-system]\nrequires = [\"x @ https://example.invalid/x.whl\"]\n",
		"libs/none/pyproject.toml":                 "[build-system]\nrequires = []\nbuild-backend = \"no_such_module\"\n",
		"libs/escape/pyproject.toml":               "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n",
		"libs/escape/backend.py":                   "def build_wheel(to):\n    return '../../x.whl'\n",
		"libs/nothing/setup.py":                    "",
		"wrong_name-1.0-py3-none-any.whl":          read(t, filepath.Join(dir, "tarn_test_other-1.0-py3-none-any.whl")),
		"tarn_test_other-1.0-cp27-cp27m-win32.whl": read(t, filepath.Join(dir, "tarn_test_other-1.0-py3-none-any.whl")),
		"broken-1.0-py3-none-any.whl":              "no zip",
	})
	s := open(t, scratch(t), only(t.TempDir()))
	for typed, c := range map[string]struct {
		is   *errdef.Error
		says string
	}{
		"/opt/geo":                          {image.ErrRequirement, "not a path in the project"},
		"~/geo":                             {image.ErrRequirement, "not a path in the project"},
		"../geo":                            {image.ErrRequirement, "not below the project's folder"},
		"./libs/../../geo":                  {image.ErrRequirement, "not below the project's folder"},
		".":                                 {image.ErrRequirement, "not below the project's folder"},
		"./libs/*":                          {image.ErrRequirement, "no path of a package"},
		"./libs/plain; x":                   {image.ErrRequirement, "no path of a package"},
		"libs/plain":                        {image.ErrRequirement, "does not name a package"},
		"-e ./libs/plain":                   {image.ErrRequirement, "does not name a package"},
		"./libs/missing":                    {image.ErrRequirement, "has no files at"},
		"./libs/missing.whl":                {image.ErrRequirement, "has no files at"},
		"./libs/plain":                      {image.ErrRequirement, "is no package"},
		"./libs/toml":                       {image.ErrRequirement, "libs/toml/pyproject.toml"},
		"./libs/url":                        {image.ErrRequirement, "x @ https"},
		"./libs/none":                       {image.ErrBuild, "no_such_module"},
		"./libs/escape":                     {image.ErrUnsafe, "../../x.whl"},
		"./libs/nothing":                    {image.ErrOffline, "setuptools"},
		"./wrong_name-1.0-py3-none-any.whl": {image.ErrUnsafe, "tarn-test-other"},
		"./tarn_test_other-1.0-cp27-cp27m-win32.whl": {image.ErrRequirement, "is not a wheel for Python"},
		"./broken-1.0-py3-none-any.whl":              {image.ErrUnsafe, "./broken-1.0-py3-none-any.whl"},
	} {
		t.Run(strings.ReplaceAll(typed, "/", "_"), func(t *testing.T) {
			t.Parallel()
			_, err := s.Resolve(t.Context(), t.TempDir(), []image.Spec{{Packages: []string{typed}, Folder: project(dir)}})
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), strings.TrimPrefix(typed, "./")) {
				t.Errorf("%v", err)
			}
		})
	}
}
