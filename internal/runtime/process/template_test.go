//go:build linux

package process_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
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
	template, err := newTemplate(modules...)
	if err != nil {
		t.Fatal(err)
	}
	return template
}

func newTemplate(modules ...string) (*runtime.Template, error) {
	found, err := interpreter()
	if err != nil {
		return nil, err
	}
	program, err1 := filepath.EvalSymlinks(found[0])
	sdk, err2 := filepath.Abs("../../../sdk/python/src")
	return &runtime.Template{
		Argv:   append([]string{program, "-S", "-B", "-m", "tarn._template"}, modules...),
		Env:    map[string]string{"PYTHONPATH": "{mount:template-sdk}"},
		Mounts: append(runtime.Installed("template-python", found[1]), runtime.Mount{Name: "template-sdk", Source: sdk}),
	}, errors.Join(err1, err2)
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

// TestTemplateKilled kills a template again and again: no command fails, and there is a new one.
func TestTemplateKilled(t *testing.T) {
	t.Parallel()
	for _, level := range confinedLevels {
		t.Run(string(level), func(t *testing.T) {
			t.Parallel()
			need(t, level)
			rt := open(t, level)
			template := pythonTemplate(t)
			template.Env["TARN_TEST"] = t.Name() // to find it by
			run := func() {
				sb, err := rt.Create(t.Context(), runtime.Spec{ID: t.Name(), Template: template})
				if err != nil {
					t.Fatal(err)
				}
				defer sb.Close()
				if exit, err := sb.Run(t.Context(), runtime.Command{Argv: []string{"/bin/true"}}); err != nil || !exit.OK() {
					t.Fatal(exit, err)
				}
			}
			run()
			for range 3 {
				before := rt.Templates()
				if killed := killByVariable(t, "TARN_TEST="+t.Name()); killed == 0 {
					t.Fatal("no template was found")
				}
				for rt.Templates().Started == before.Started { // forks that were ready are used first
					run()
				}
			}
			before := rt.Templates().Unforked
			for range 5 {
				run()
			}
			if after := rt.Templates(); after.Unforked != before {
				t.Errorf("the new template does not fork: %+v", after)
			}
		})
	}
}

// killByVariable kills the processes that were started with a variable.
func killByVariable(t *testing.T, variable string) (killed int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		env, err := os.ReadFile(path)
		if err != nil || !strings.Contains("\x00"+string(env), "\x00"+variable+"\x00") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			t.Fatal(err)
		}
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed++
		}
	}
	return killed
}
