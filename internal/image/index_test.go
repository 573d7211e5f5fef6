package image_test

import (
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
