package flow_test

import (
	"strings"
	"testing"

	rt "tarn.dev/tarn/internal/runtime"
)

// An option that nothing honours yet is an error, never ignored.
func TestUnbuiltOptionsAreRefused(t *testing.T) {
	t.Parallel()
	for _, option := range []string{
		`isolation="serializable"`, `resources=tarn.Resources(gpu="H100")`, `partitions=tarn.daily("2024-01-01")`,
	} {
		p := newPlace(t, "pipeline.py", "import tarn\n\n\n@tarn.asset("+option+")\ndef made(out: tarn.OutputDir):\n    pass\n")
		p.fails("run.option")
	}
}

// Who misses the network is told how to get it.
func TestNoNetworkIsSaid(t *testing.T) {
	t.Parallel()
	if level() == rt.Process {
		t.Skip("this level does not take the network away")
	}
	p := newPlace(t, "pipeline.py", `import tarn


@tarn.asset
def fetch(out: tarn.OutputDir):
    import socket

    socket.create_connection(("192.0.2.1", 9), timeout=5)
`)
	o := p.fails("run.user_code")
	if next := strings.Join(o.Error.Next, " "); !strings.Contains(next, "network=True") {
		t.Errorf("%v, next %q", o.Error, next)
	}
}
