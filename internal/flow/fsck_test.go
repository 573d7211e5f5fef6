package flow_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"tarn.dev/tarn/internal/flow"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/meta"
)

func (p *place) fsck() (flow.FsckStats, []string) {
	p.t.Helper()
	var reasons []string
	stats, err := p.Fsck(p.t.Context(), true, func(f lake.Problem) {
		p.t.Log(f)
		reasons = append(reasons, f.Reason)
	})
	if err != nil {
		p.t.Fatal(err)
	}
	slices.Sort(reasons)
	return stats, slices.Compact(reasons)
}

func TestFsckFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		breaks func(p *place, run string)
		want   []string
	}{
		"nothing": {func(*place, string) {}, nil},
		"a fragment is gone": {func(p *place, _ string) {
			for _, f := range p.blobs("fragments/*/*") {
				p.check(os.Remove(f))
			}
		}, []string{"fsck.fragment"}},
		"a fragment is not what was written": {func(p *place, _ string) {
			flip(p, p.blobs("fragments/*/*")...)
		}, []string{"fsck.fragment"}},
		"a data file is gone": {func(p *place, _ string) {
			for _, f := range p.blobs("tables/*/data/*") {
				p.check(os.Remove(f))
			}
		}, []string{"fsck.table"}},
		"a data file is not what was written": {func(p *place, _ string) {
			flip(p, p.blobs("tables/*/data/*")...)
		}, []string{"fsck.table"}},
		"metadata is not what was written": {func(p *place, _ string) {
			flip(p, p.blobs("tables/*/metadata/*")...)
		}, []string{"fsck.table"}},
		"a memo row is no fragment": {func(p *place, _ string) {
			p.spoil("p/p/flow/memo/", "no JSON")
		}, []string{"fsck.memo"}},
		"a run's row is of another": {func(p *place, run string) {
			p.spoil("p/p/flow/run/"+run, `{"id":"r-other","state":"succeeded"}`)
		}, []string{"fsck.run"}},
		"a run has no end": {func(p *place, run string) {
			p.spoil("p/p/flow/run/"+run, `{"id":"`+run+`","state":"running","session":"s/0"}`)
		}, []string{"fsck.run"}},
		"a secret does not open": {func(p *place, _ string) {
			_, err := p.rows.Txn(p.t.Context(), nil, []meta.Write{meta.Set("secret/p/TOKEN", []byte(`{"set":"2026-01-01T00:00:00Z","age":"bm8="}`))})
			p.check(err)
		}, []string{"fsck.secret"}},
		"a step has a state of its own": {func(p *place, run string) {
			p.spoil("p/p/flow/step/"+run, `{"run":"`+run+`","name":"numbers","state":"tired"}`)
		}, []string{"fsck.run"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, "numbers.sql", numbers, "counts.sql", counts)
			o := p.succeeds("numbers:succeeded counts:succeeded")
			c.breaks(p, o.ID)
			stats, got := p.fsck()
			if !slices.Equal(got, c.want) {
				t.Errorf("found %v, want %v", got, c.want)
			}
			if stats.Tables != 2 || stats.Definitions != 2 || stats.Runs != 1 {
				t.Errorf("looked at %+v", stats)
			}
		})
	}
}

func (p *place) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// blobs are files of the store.
func (p *place) blobs(pattern string) []string {
	p.t.Helper()
	names, err := filepath.Glob(filepath.Join(p.home, "projects", "p", pattern))
	p.check(err)
	if len(names) == 0 {
		p.t.Fatalf("no blobs at %s", pattern)
	}
	return names
}

// flip changes one byte in the middle of each file.
func flip(p *place, names ...string) {
	p.t.Helper()
	for _, name := range names {
		b, err := os.ReadFile(name)
		p.check(err)
		b[len(b)/2] ^= 0x55
		p.check(os.Chmod(name, 0o600))
		p.check(os.WriteFile(name, b, 0o600))
	}
}

// spoil overwrites the values of rows.
func (p *place) spoil(prefix, value string) {
	p.t.Helper()
	var writes []meta.Write
	for row, err := range p.rows.Scan(p.t.Context(), meta.Prefix(prefix)) {
		p.check(err)
		writes = append(writes, meta.Set(row.Key, []byte(value)))
	}
	if len(writes) == 0 {
		p.t.Fatalf("no rows at %s", prefix)
	}
	_, err := p.rows.Txn(p.t.Context(), nil, writes)
	p.check(err)
}
