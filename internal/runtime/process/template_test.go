//go:build linux

package process_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// leftovers are modules by what they leave behind when they are imported, and whether a template may keep them.
var leftovers = map[string]struct {
	text string
	kept bool
}{
	"nothing":      {"import threading\nt = threading.Thread(target=int)\nt.start()\nt.join()\n", true},
	"own_memory":   {"import mmap\nm = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE)\n", true},
	"thread":       {"import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n", false},
	"descriptor":   {"f = open('/dev/null')\n", false},
	"child":        {"import subprocess\np = subprocess.Popen(['/bin/sleep', '1000'])\n", false},
	"zombie":       {"import subprocess\np = subprocess.Popen(['/bin/true'])\n", false},
	"shared":       {"import mmap\nm = mmap.mmap(-1, 4096)\n", false},
	"shared_file":  {"import mmap\nwith open('/dev/shm/x', 'w+b') as f:\n    f.truncate(4096)\n    m = mmap.mmap(f.fileno(), 4096)\n", false},
	"cannot":       {"import nothing_of_this_name\n", false},
	"uses_threads": {"import thread\n", false},
}

// TestTemplateLeavesOut shows that a template serves without the modules that cannot be forked with, and with all others.
func TestTemplateLeavesOut(t *testing.T) {
	t.Parallel()
	packages := t.TempDir()
	var names, want []string
	for name, m := range leftovers {
		if err := os.WriteFile(filepath.Join(packages, "left_"+name+".py"), []byte(strings.ReplaceAll(m.text, "import thread\n", "import left_thread\n")), 0o600); err != nil {
			t.Fatal(err)
		}
		names = append(names, "left_"+name)
		if m.kept {
			want = append(want, "left_"+name)
		}
	}
	slices.Sort(names)
	slices.Sort(want)
	script := "import sys\nprint(*sorted(n for n in sys.modules if n.startswith('left_')))\n"
	if err := os.WriteFile(filepath.Join(packages, "look.py"), []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, level := range confinedLevels {
		t.Run(string(level), func(t *testing.T) {
			t.Parallel()
			need(t, level)
			rt := open(t, level)
			template := pythonTemplate(t, names...)
			template.Env["PYTHONPATH"] += ":/mnt/packages"
			template.Mounts = append(template.Mounts, runtime.Mount{Name: "packages", Source: packages})
			sb, err := rt.Create(t.Context(), runtime.Spec{ID: t.Name(), Template: template})
			if err != nil {
				t.Fatal(err)
			}
			defer sb.Close()
			var out, errs strings.Builder
			argv := []string{template.Argv[0], "-S", "-B", "-m", "tarn._runner", "/mnt/packages/look.py"}
			exit, err := sb.Run(t.Context(), runtime.Command{Argv: argv, Stdout: &out, Stderr: &errs})
			if stats := rt.Templates(); err != nil || !exit.OK() || stats.Unforked > 0 {
				t.Fatal(exit, err, errs.String(), stats)
			}
			if got := strings.Fields(out.String()); !slices.Equal(got, want) {
				t.Errorf("forks have %v, not %v", got, want)
			}
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
