//go:build linux

package process_test

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"tarn.dev/tarn/internal/runtime"
	"tarn.dev/tarn/internal/runtime/runtimetest"
)

// forking makes every sandbox one of forks.
type forking struct {
	runtime.Runtime
	template *runtime.Template
}

func (f forking) Create(ctx context.Context, spec runtime.Spec) (runtime.Sandbox, error) {
	spec.Template = f.template
	return f.Runtime.Create(ctx, spec)
}

// interpreter is the host's Python: where it is and what belongs to it.
var interpreter = sync.OnceValues(func() ([]string, error) {
	out, err := exec.Command("python3", "-c", "import sys; print(sys.executable); print(sys.base_prefix)").Output()
	return strings.Fields(string(out)), err
})

// pythonTemplate is the template of the SDK, with modules to import.
func pythonTemplate(t testing.TB, modules ...string) *runtime.Template {
	t.Helper()
	found, err := interpreter()
	if err != nil {
		t.Fatal(err)
	}
	program, err := filepath.EvalSymlinks(found[0])
	if err != nil {
		t.Fatal(err)
	}
	sdk, err := filepath.Abs("../../../sdk/python/src")
	if err != nil {
		t.Fatal(err)
	}
	return &runtime.Template{
		Argv:   append([]string{program, "-S", "-B", "-m", "tarn._template"}, modules...),
		Env:    map[string]string{"PYTHONPATH": "{mount:template-sdk}"},
		Mounts: append(runtime.Installed("template-python", found[1]), runtime.Mount{Name: "template-sdk", Source: sdk}),
	}
}

// confinedLevels have a place in which a template can be kept.
var confinedLevels = []runtime.Level{runtime.UserNS, runtime.Full}

func TestForkConformance(t *testing.T) {
	t.Parallel()
	for _, level := range confinedLevels {
		t.Run(string(level), func(t *testing.T) {
			t.Parallel()
			need(t, level)
			runtimetest.Run(t, func(t *testing.T) runtime.Runtime { return forking{open(t, level), pythonTemplate(t)} })
		})
	}
}

func BenchmarkFork(b *testing.B) {
	for _, level := range confinedLevels {
		b.Run(string(level), func(b *testing.B) {
			need(b, level)
			template := pythonTemplate(b)
			runtimetest.Benchmark(b, func(b *testing.B) runtime.Runtime { return forking{open(b, level), template} })
		})
	}
}
