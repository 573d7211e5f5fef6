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
		"AWS_SECRET_ACCESS_KEY=no", "OPENAI_API_KEY=no", "VIRTUAL_ENV=/no", "PYTHONPATH=/no", "PWD=/no", "LD_PRELOAD=no",
		"TARN_URL=no", "TARN_TOKEN=no", "TARN_BRANCH=no", "TARN_HOME=relative", "TARN_CACHE=relative", "broken",
	}, h)
	want := []string{"PATH=/bin", "HOME=/root", "UV_CACHE_DIR=/x", "TARN_IDLE=1m", "LC_ALL=C", "TARN_HOME=/h", "TARN_CACHE=/c"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
