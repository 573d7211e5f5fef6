package flow_test

import "testing"

// An option that nothing honours yet is an error, never ignored.
func TestUnbuiltOptionsAreRefused(t *testing.T) {
	t.Parallel()
	for _, option := range []string{
		`secrets=["KEY"]`, `isolation="serializable"`, `resources=tarn.Resources(gpu="H100")`, `partitions=tarn.daily("2024-01-01")`,
	} {
		p := newPlace(t, "pipeline.py", "import tarn\n\n\n@tarn.asset("+option+")\ndef made(out: tarn.OutputDir):\n    pass\n")
		p.fails("run.option")
	}
}
