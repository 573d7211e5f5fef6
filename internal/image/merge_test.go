package image_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarn.dev/tarn/internal/image"
	"tarn.dev/tarn/internal/image/imagetest"
)

// Two packages that bring one path: the same one wins on every host, and the view says so.
func TestOverlappingPackages(t *testing.T) {
	t.Parallel()
	index := t.TempDir()
	for _, who := range []string{"aaa", "bbb", "ccc"} {
		imagetest.Wheel(t, index, "tarn_test_"+who, "1.0", map[string]string{
			"shared/__init__.py": "who = '" + who + "'\n", "shared/same.py": "x = 1\n", "tarn_test_" + who + ".py": "ok = True\n",
		})
	}
	env := append(userEnv(), "UV_NO_INDEX=1", "UV_OFFLINE=1", "UV_FIND_LINKS="+index)
	for range 3 { // uv alone gives several outcomes
		s := open(t, scratch(t), env)
		locks, err := s.Resolve(t.Context(), t.TempDir(), []image.Spec{{Packages: []string{"tarn-test-aaa", "tarn-test-bbb", "tarn-test-ccc"}}})
		if err != nil {
			t.Fatal(err)
		}
		var said strings.Builder
		v, err := s.Ensure(t.Context(), locks[0], func(line string) { said.WriteString(line + "\n") })
		if err != nil {
			t.Fatal(err)
		}
		if got := run(t, v, "import shared, shared.same, tarn_test_aaa, tarn_test_bbb; print(shared.who)"); got != "ccc" {
			t.Errorf("the winner is %s", got)
		}
		const note = "shared/__init__.py is in tarn-test-aaa, tarn-test-bbb, tarn-test-ccc; that of tarn-test-ccc is used\n"
		if got := read(t, filepath.Join(v.SitePackages, ".tarn-overlaps")); got != note || !strings.Contains(said.String(), note) {
			t.Errorf("the view says %q; was told %q", got, said.String())
		}
		checkView(t, v)
	}
}

// Changing one package takes all others as they are: no byte of them is fetched, unpacked or copied.
func TestOtherPackagesAreReused(t *testing.T) {
	t.Parallel()
	ctx, cache := t.Context(), scratch(t)
	index := imagetest.NewIndex(t)
	index.Add("tarn_test_big", "1.0", map[string]string{"tarn_test_big/__init__.py": "from . import part\n", "tarn_test_big/part.py": "x = 1\n", "tarn_test_big/data.bin": "data"})
	index.Add("tarn_test_small", "1.0", map[string]string{"tarn_test_small.py": "v = 1\n"})
	index.Add("tarn_test_small", "2.0", map[string]string{"tarn_test_small.py": "v = 2\n"})
	s := open(t, cache, indexEnv(index))
	var views []image.View
	var said [][]string
	for _, small := range []string{"1.0", "2.0"} {
		locks, err := s.Resolve(ctx, t.TempDir(), []image.Spec{{Packages: []string{"tarn-test-big", "tarn-test-small==" + small}}})
		if err != nil {
			t.Fatal(err)
		}
		index.Forget()
		var lines []string
		v, err := s.Ensure(ctx, locks[0], func(line string) { lines = append(lines, line) })
		if err != nil {
			t.Fatal(err)
		}
		views, said = append(views, v), append(said, lines)
		if got := run(t, v, "import tarn_test_big.part, tarn_test_small; print(tarn_test_small.v)"); got+".0" != small {
			t.Errorf("version %s is %s", small, got)
		}
		checkView(t, v)
		if err := removeAll(filepath.Join(cache, "uv")); err != nil { // what is there needs nothing of uv's
			t.Fatal(err)
		}
	}
	for _, asked := range index.Asked() {
		if strings.Contains(asked, "big") {
			t.Errorf("the change of another package asked for %s", asked)
		}
	}
	if !strings.HasPrefix(said[1][0], "installing 1 package for Python") || !strings.HasSuffix(said[1][0], "; 1 are there") {
		t.Errorf("said %q", said[1])
	}
	files := 0
	big := filepath.Join(views[0].SitePackages, "tarn_test_big")
	err := filepath.WalkDir(big, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(views[0].SitePackages, path)
		if err != nil {
			return err
		}
		before, err := os.Stat(path)
		if err != nil {
			return err
		}
		after, err := os.Stat(filepath.Join(views[1].SitePackages, name))
		if err != nil {
			return err
		}
		if files++; !os.SameFile(before, after) {
			t.Errorf("%s is another file in the second view", name)
		}
		return nil
	})
	if err != nil || files != 5 { // three files and two of byte code
		t.Errorf("%d files, %v", files, err)
	}
}
