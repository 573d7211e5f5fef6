package client

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/system/home"
)

func TestEnvironment(t *testing.T) {
	t.Parallel()
	h := home.Home{Dir: "/h", Cache: "/c"}
	got := environment([]string{
		"PATH=/bin", "HOME=/root", "UV_CACHE_DIR=/x", "TARN_IDLE=1m", "LC_ALL=C",
		"AWS_SECRET_ACCESS_KEY=no", "OPENAI_API_KEY=no", "VIRTUAL_ENV=/no", "PYTHONPATH=/no", "PWD=/no", "LD_PRELOAD=no", "PGPASSWORD=no",
		"TARN_URL=no", "TARN_TOKEN=no", "TARN_BRANCH=no", "TARN_HOME=relative", "TARN_CACHE=relative", "broken",
	}, h)
	want := []string{"PATH=/bin", "HOME=/root", "UV_CACHE_DIR=/x", "TARN_IDLE=1m", "LC_ALL=C", "TARN_HOME=/h", "TARN_CACHE=/c"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// What completes the address of a database goes with it, and only with it.
	got = environment([]string{"PGPASSWORD=p", "TARN_META=postgres://h/d"}, h)
	if diff := cmp.Diff([]string{"PGPASSWORD=p", "TARN_META=postgres://h/d", "TARN_HOME=/h", "TARN_CACHE=/c"}, got); diff != "" {
		t.Error(diff)
	}
}
