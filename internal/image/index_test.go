package image_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarn.dev/tarn/internal/image"
	"tarn.dev/tarn/internal/image/imagetest"
)

// indexEnv is the environment of a user whose only index is x.
func indexEnv(x *imagetest.Index) []string {
	return append(userEnv(), "UV_DEFAULT_INDEX="+x.URL(), "NO_PROXY=127.0.0.1", "UV_HTTP_RETRIES=0")
}

// removeAll removes a folder that may hold read-only ones.
func removeAll(dir string) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(path, 0o755)
		}
		return err
	})
	return errors.Join(err, os.RemoveAll(dir))
}

// A private index of the project is asked again when the packages are installed on another host, which
// knows the lock and not the project.
func TestPrivateIndex(t *testing.T) {
	t.Parallel()
	own := imagetest.NewIndex(t)
	own.Add("tarn_test_private", "1.0", map[string]string{"tarn_test_private.py": "ok = True\n"})
	own.Protect("secret")
	env := append(userEnv(), "UV_INDEX_OWN_USERNAME=u", "UV_INDEX_OWN_PASSWORD=secret", "NO_PROXY=127.0.0.1")
	spec := image.Spec{Packages: []string{"tarn-test-private"}}
	for name, text := range map[string]string{
		"uv.toml":        "[[index]]\nname = \"own\"\nurl = \"" + own.URL() + "\"\n",
		"pyproject.toml": "[[tool.uv.index]]\nname = \"own\"\nurl = \"" + own.URL() + "\"\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			project := t.TempDir()
			write(t, project, map[string]string{name: text})
			locks, err := open(t, scratch(t), env).Resolve(t.Context(), project, []image.Spec{spec})
			if err != nil {
				t.Fatal(err)
			}
			if text := read(t, filepath.Join(project, image.LockFile)); strings.Contains(text, "secret") {
				t.Errorf("a password is in tarn.lock: %s", text)
			}
			v, err := open(t, scratch(t), env).Ensure(t.Context(), locks[0], nil)
			if err != nil {
				t.Fatal(err)
			}
			run(t, v, "import tarn_test_private")
		})
	}
}

// The project's own secret opens an index, and nothing that is said or written has it.
func TestIndexWithASecret(t *testing.T) {
	t.Parallel()
	const password = "p4ss-w0rd"
	own := imagetest.NewIndex(t)
	own.Add("tarn_test_private", "1.0", map[string]string{"tarn_test_private.py": "ok = True\n"})
	own.Protect(password)
	env := append(userEnv(), "NO_PROXY=127.0.0.1", "UV_HTTP_RETRIES=0", "UV_DEFAULT_INDEX=http://somebody:"+password+"x@127.0.0.1:9/simple")
	spec := image.Spec{Packages: []string{"tarn-test-private"}, Indexes: []string{"my-own=" + own.URL()}}
	kept := map[string]string{"UV_INDEX_MY_OWN_USERNAME": "u", "UV_INDEX_MY_OWN_PASSWORD": "wrong"}
	ctx := image.WithLookup(t.Context(), func(_ context.Context, name string) (string, bool, error) {
		value, ok := kept[name]
		return value, ok, nil
	})
	cache, project := scratch(t), t.TempDir()
	s := open(t, cache, env)
	for what, ctx := range map[string]context.Context{"no secret": t.Context(), "a wrong one": ctx} {
		_, err := s.Resolve(ctx, project, []image.Spec{spec})
		if err == nil || strings.Contains(err.Error(), password) || strings.Contains(err.Error(), "somebody") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := s.Resolve(ctx, project, []image.Spec{spec}); !errors.Is(err, image.ErrLogin) {
		t.Errorf("with a wrong password: %v", err)
	}
	kept["UV_INDEX_MY_OWN_PASSWORD"] = password
	locks, err := s.Resolve(ctx, project, []image.Spec{spec})
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	v, err := s.Ensure(ctx, locks[0], func(line string) { said = append(said, line) })
	if err != nil {
		t.Fatal(err)
	}
	run(t, v, "import tarn_test_private")
	all := read(t, filepath.Join(project, image.LockFile)) + strings.Join(said, "\n") + spec.SpecKey()
	if strings.Contains(all, password) || strings.Contains(all, "somebody") {
		t.Errorf("a password is in %s", all)
	}
	err = filepath.WalkDir(cache, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.Contains(read(t, path), password) {
			t.Errorf("a password is in %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// Credentials in the URL of an index would stand in tarn.lock: they are refused, and not repeated.
func TestCredentialsInURL(t *testing.T) {
	t.Parallel()
	s := open(t, scratch(t), userEnv())
	for _, index := range []string{"https://me:hunter2@index.example/simple", "work=https://hunter2@index.example/simple"} {
		_, err := s.Resolve(t.Context(), t.TempDir(), []image.Spec{{Packages: []string{"six"}, Indexes: []string{index}}})
		if !errors.Is(err, image.ErrRequirement) || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "index.example") {
			t.Errorf("%s: %v", index, err)
		}
	}
}

// Constraints bound what packages bring along; they ask for nothing.
func TestConstraints(t *testing.T) {
	t.Parallel()
	index := imagetest.NewIndex(t)
	for _, version := range []string{"1.0", "2.0"} {
		index.Add("tarn_test_low", version, map[string]string{"tarn_test_low.py": "x = 1\n"})
	}
	index.Add("tarn_test_high", "1.0", map[string]string{"info/METADATA": "Metadata-Version: 2.1\nName: tarn_test_high\nVersion: 1.0\nRequires-Dist: tarn-test-low\n"})
	s, project := open(t, scratch(t), indexEnv(index)), t.TempDir()
	bound := []string{"tarn-test-low<2", "tarn-test-unused==7"}
	locks, err := s.Resolve(t.Context(), project, []image.Spec{{Packages: []string{"tarn-test-high"}}, {Packages: []string{"tarn-test-high"}, Constraints: bound}})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"2.0", "1.0"} {
		if got := locks[i].Packages; len(got) != 2 || got[1].Version != want {
			t.Errorf("%d: %+v", i, got)
		}
	}
	write(t, project, map[string]string{"requirements.txt": "-c bounds.txt\ntarn-test-high\n", "bounds.txt": strings.Join(bound, "\n")})
	spec, err := image.ReadRequirements(filepath.Join(project, "requirements.txt"))
	if err != nil || len(spec.Packages) != 1 || len(spec.Constraints) != 2 {
		t.Fatalf("%+v, %v", spec, err)
	}
	if _, ok, err := s.Locked(project, spec); err != nil || !ok {
		t.Errorf("the same constraints from a file are another environment: %v, %v", ok, err)
	}
}
