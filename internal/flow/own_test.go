package flow_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarn.dev/tarn/internal/image"
)

const ownPipeline = `import subprocess

import tarn

geo = tarn.Env(packages=["./libs/geo"])


@tarn.asset(env=geo)
def told(out: tarn.OutputDir):
    import tarn_test_geo

    print("told", tarn_test_geo.area(2))
    print("program", subprocess.run(["tarn-test-geo"], stdout=subprocess.PIPE, check=True, text=True).stdout.strip())


@tarn.asset(env=tarn.Env(packages=["idna==3.4"]))
def apart(out: tarn.OutputDir):
    pass
`

const ownProject = `[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "tarn-test-geo"
version = "1.0"
dependencies = ["idna==3.4"]

[project.scripts]
tarn-test-geo = "tarn_test_geo:main"
`

const ownModule = "def area(x):\n    return x * FACTOR\n\n\ndef main():\n    print('main', area(10))\n"

// Who edits a package of the project's own folder sees the new code in the next run, which builds that package alone; what has
// it in its environment runs again, and nothing else. A rerun has the package as it was.
func TestPackageOfTheProject(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "pipeline.py", ownPipeline, "libs/geo/pyproject.toml", ownProject,
		"libs/geo/tarn_test_geo/__init__.py", strings.ReplaceAll(ownModule, "FACTOR", "1"), "libs/geo/.gitignore", "*.log\n")
	says := func(o outcome, wanted ...string) {
		t.Helper()
		for _, want := range wanted {
			if text := p.told(o); !strings.Contains(text, want) {
				t.Errorf("%q is not in what the run said: %s", want, text)
			}
		}
	}
	first := p.succeeds("apart:succeeded told:succeeded")
	says(first, "told 2", "program main 10")
	lock := p.lockFile()

	p.write("libs/geo/tarn_test_geo/__init__.py", strings.ReplaceAll(ownModule, "FACTOR", "3"))
	says(p.succeeds("apart:cached told:succeeded"), "told 6", "program main 30", "building ./libs/geo", "installing 1 package for")
	if got := p.lockFile(); got != lock {
		t.Errorf("an edit of code changed tarn.lock:\n%s", got)
	}

	p.write("libs/geo/build.log", "what git ignores is no part of it")
	p.succeeds("apart:cached told:cached")

	run, _, err := p.Rerun(t.Context(), first.ID, "q-1", "tester")
	if err != nil {
		t.Fatal(err)
	}
	says(p.wait(run.ID), "told 2", "program main 10")
}

func (p *place) lockFile() string {
	p.t.Helper()
	b, err := os.ReadFile(filepath.Join(p.dir, image.LockFile))
	if err != nil {
		p.t.Fatal(err)
	}
	return string(b)
}
