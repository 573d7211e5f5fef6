package backup_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/blob/fsblob"
	"tarn.dev/tarn/internal/blob/memblob"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/sqlitemeta"
	"tarn.dev/tarn/internal/system/backup"
)

// store is one that is backed up, or restored into.
type store struct {
	t        *testing.T
	rows     meta.Store
	projects map[string]blob.Store
}

func newStore(t *testing.T) *store {
	t.Helper()
	rows, err := sqlitemeta.Open(filepath.Join(t.TempDir(), "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rows.Close(); err != nil {
			t.Error(err)
		}
	})
	return &store{t, rows, map[string]blob.Store{}}
}

func (s *store) open(project string) (blob.Store, error) {
	if s.projects[project] == nil {
		s.projects[project] = memblob.New()
	}
	return s.projects[project], nil
}

func (s *store) put(project, name, content string) {
	s.t.Helper()
	b, _ := s.open(project)
	if err := b.Put(context.Background(), name, strings.NewReader(content)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *store) set(key, value string) {
	s.t.Helper()
	if _, err := s.rows.Txn(context.Background(), nil, []meta.Write{meta.Set(key, []byte(value))}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *store) source() backup.Source {
	out := backup.Source{
		Tarn: "v1", Rows: s.rows, Scratch: s.t.TempDir(),
		OmitRow:  func(key string) bool { return strings.HasPrefix(key, "index/") },
		OmitBlob: func(name string) bool { return strings.HasPrefix(name, "index/") },
	}
	for _, name := range slices.Sorted(maps.Keys(s.projects)) {
		out.Projects = append(out.Projects, backup.Project{Name: name, Blobs: s.projects[name]})
	}
	return out
}

func (s *store) backup(to blob.Store) (backup.Backup, error) {
	return backup.Write(context.Background(), s.source(), to, func(backup.Progress) {})
}

func (s *store) mustBackup(to blob.Store) backup.Backup {
	s.t.Helper()
	b, err := s.backup(to)
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

func (s *store) restore(b backup.Backup, from blob.Store) error {
	return b.Restore(context.Background(), from, s.rows, s.open, func(backup.Progress) {})
}

// content is all that is in it, but for what is derived.
func (s *store) content() map[string]string {
	s.t.Helper()
	all := map[string]string{}
	for row, err := range s.rows.Scan(context.Background(), meta.Range{}) {
		if err != nil {
			s.t.Fatal(err)
		}
		if !strings.HasPrefix(row.Key, "index/") {
			all["row "+row.Key] = string(row.Value)
		}
	}
	for project, b := range s.projects {
		for name, content := range blobs(s.t, b) {
			if !strings.HasPrefix(name, "index/") {
				all[project+" "+name] = content
			}
		}
	}
	return all
}

func blobs(t *testing.T, b blob.Store) map[string]string {
	t.Helper()
	all := map[string]string{}
	for info, err := range b.List(context.Background(), "") {
		if err != nil {
			t.Fatal(err)
		}
		r, err := b.Get(context.Background(), info.Name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
		all[info.Name] = string(content)
	}
	return all
}

// TestModel backs a store up while it grows, now and then, sometimes with an end in the middle, and restores any of the backups.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		s, to := newStore(t), memblob.New()
		var made []backup.Backup
		var was []map[string]string
		next := 0
		rt.Repeat(map[string]func(*rapid.T){
			"put": func(rt *rapid.T) {
				next++
				project := rapid.SampledFrom([]string{"a", "a.b", "b"}).Draw(rt, "project")
				folder := rapid.SampledFrom([]string{"packs/", "tables/x/", "index/"}).Draw(rt, "folder")
				s.put(project, fmt.Sprint(folder, rapid.IntRange(0, 9).Draw(rt, "first"), "-", next), strings.Repeat("x", rapid.IntRange(0, 3).Draw(rt, "size")))
			},
			"set": func(rt *rapid.T) {
				s.set(rapid.SampledFrom([]string{"a", "b\xff/c", "index/a", "é"}).Draw(rt, "key"), rapid.String().Draw(rt, "value"))
			},
			"back up": func(*rapid.T) {
				b := s.mustBackup(to)
				made, was = append(made, b), append(was, s.content())
			},
			"be interrupted": func(rt *rapid.T) {
				left := rapid.IntRange(0, 5).Draw(rt, "puts")
				if _, err := s.backup(&failing{Store: to, left: left}); err != nil && !errors.Is(err, errFailing) {
					rt.Fatal(err)
				} else if err == nil {
					all, err := backup.List(context.Background(), to)
					if err != nil {
						rt.Fatal(err)
					}
					made, was = append(made, all[len(all)-1]), append(was, s.content())
				}
			},
			"restore": func(rt *rapid.T) {
				all, err := backup.List(context.Background(), to)
				if len(made) == 0 {
					return
				}
				if err != nil || len(all) != len(made) {
					rt.Fatalf("%d backups, want %d: %v", len(all), len(made), err)
				}
				i := rapid.IntRange(0, len(made)-1).Draw(rt, "i")
				back := newStore(t)
				if err := back.restore(all[i], to); err != nil {
					rt.Fatal(err)
				}
				if diff := cmp.Diff(was[i], back.content()); diff != "" {
					rt.Fatal(diff)
				}
			},
		})
	})
}

var errFailing = errors.New("the disk is full")

// failing fails after some puts.
type failing struct {
	blob.Store
	mu   sync.Mutex
	left int
}

func (f *failing) Put(ctx context.Context, name string, r io.Reader) error {
	f.mu.Lock()
	f.left--
	left := f.left
	f.mu.Unlock()
	if left < 0 {
		return errFailing
	}
	return f.Store.Put(ctx, name, r)
}

// counting counts what is read.
type counting struct {
	blob.Store
	mu   sync.Mutex
	gets int
}

func (c *counting) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	c.mu.Lock()
	c.gets++
	c.mu.Unlock()
	return c.Store.Get(ctx, name, offset, length)
}

// What was backed up is not read again.
func TestCostsWhatIsNew(t *testing.T) {
	t.Parallel()
	s, to := newStore(t), memblob.New()
	for i := range 100 {
		s.put("p", fmt.Sprintf("packs/%03d", i), fmt.Sprint("content ", i))
	}
	s.set("a", "1")
	first := s.mustBackup(to)
	counted := &counting{Store: s.projects["p"]}
	s.projects["p"] = counted
	s.put("p", "packs/0505", "more")
	second := s.mustBackup(to)
	if first.Copied != first.Bytes || second.Copied != 4 || second.Blobs != 101 || counted.gets != 1 {
		t.Errorf("%+v, then %+v with %d reads", first, second, counted.gets)
	}
	back := newStore(t)
	if err := back.restore(second, to); err != nil || !cmp.Equal(back.content(), s.content()) {
		t.Error(err)
	}
}

// late opens a store when something is written: most of the damage is noticed before.
type late struct {
	meta.Store
	open func() meta.Store
}

func (l *late) Txn(ctx context.Context, conditions []meta.Condition, writes []meta.Write) (int64, error) {
	if l.Store == nil {
		l.Store = l.open()
	}
	return l.Store.Txn(ctx, conditions, writes)
}

// TestDamage changes any one byte of any blob, or takes one away: what a restore brings is right, or it fails and says what is wrong.
func TestDamage(t *testing.T) {
	t.Parallel()
	s, to := newStore(t), memblob.New()
	for i := range 5 {
		s.put("p", fmt.Sprint("packs/", i), fmt.Sprint("content ", i))
		s.set(fmt.Sprint("row/", i), fmt.Sprint("value ", i))
	}
	s.mustBackup(to)
	want, good := s.content(), blobs(t, to)
	try := func(name, content string, there bool) {
		bad := memblob.New()
		for n, c := range good {
			if n == name {
				if !there {
					continue
				}
				c = content
			}
			if err := bad.Put(t.Context(), n, strings.NewReader(c)); err != nil {
				t.Fatal(err)
			}
		}
		rows := &late{open: func() meta.Store { return newStore(t).rows }}
		back := &store{t, rows, map[string]blob.Store{}}
		all, err := backup.List(t.Context(), bad)
		if err == nil {
			var b backup.Backup
			if b, err = backup.Find(all, ""); err == nil {
				err = back.restore(b, bad)
			}
		}
		known := errors.Is(err, backup.ErrDamaged) || errors.Is(err, backup.ErrNotABackup) || errors.Is(err, backup.ErrNewer) || errors.Is(err, backup.ErrNotFound)
		if err == nil && !cmp.Equal(back.content(), want) {
			t.Errorf("%s as %.60q: something else was restored", name, content)
		} else if err != nil && !known {
			t.Errorf("%s as %.60q: %v", name, content, err)
		}
	}
	for name, content := range good {
		try(name, "", false)
		try(name, content[:len(content)-1], true)
		try(name, content+"x", true)
		for i := range content {
			b := []byte(content)
			b[i] ^= 1
			try(name, string(b), true)
		}
	}
}

// A place that holds something else is left alone; one of a later tarn is refused.
func TestForeignPlaces(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.put("p", "packs/a", "content")
	for what, want := range map[string]error{"thesis.tex": backup.ErrNotABackup, "format": backup.ErrNotABackup} {
		to := memblob.New()
		if err := to.Put(t.Context(), what, strings.NewReader("something")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.backup(to); !errors.Is(err, want) {
			t.Errorf("%s: %v", what, err)
		}
		if n := len(blobs(t, to)); n != 1 {
			t.Errorf("%s: %d blobs", what, n)
		}
	}
	to := memblob.New()
	if err := to.Put(t.Context(), "format", strings.NewReader("tarn-backup 2\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.backup(to); !errors.Is(err, backup.ErrNewer) {
		t.Error(err)
	}
	if _, err := backup.List(t.Context(), memblob.New()); !errors.Is(err, backup.ErrNotABackup) {
		t.Error(err)
	}
}

// Several at once to one place are all whole.
func TestTogether(t *testing.T) {
	t.Parallel()
	s, to := newStore(t), memblob.New()
	for i := range 200 {
		s.put("p", fmt.Sprint("packs/", i), fmt.Sprint("content ", i))
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := s.backup(to); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	all, err := backup.List(t.Context(), to)
	if err != nil || len(all) != 4 {
		t.Fatalf("%d backups: %v", len(all), err)
	}
	for _, b := range all {
		back := newStore(t)
		if err := back.restore(b, to); err != nil || !cmp.Equal(back.content(), s.content()) {
			t.Error(err)
		}
	}
}

// A restore that ended in the middle goes on, and notices what is not what it brought.
func TestRestoreGoesOn(t *testing.T) {
	t.Parallel()
	s, to := newStore(t), memblob.New()
	for i := range 20 {
		s.put("p", fmt.Sprint("packs/", i), fmt.Sprint("content ", i))
	}
	b := s.mustBackup(to)
	back := newStore(t)
	inner := memblob.New()
	back.projects["p"] = &failing{Store: inner, left: 7}
	if err := back.restore(b, to); !errors.Is(err, errFailing) {
		t.Fatal(err)
	}
	if n := len(blobs(t, inner)); n != 7 {
		t.Fatalf("%d blobs", n)
	}
	back.projects["p"] = inner
	if err := back.restore(b, to); err != nil || !cmp.Equal(back.content(), s.content()) {
		t.Error(err)
	}
	other := newStore(t)
	other.put("p", "packs/3", "content 4")
	if err := other.restore(b, to); !errors.Is(err, backup.ErrDamaged) {
		t.Error(err)
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	all := []backup.Backup{{ID: "20260101T1-a"}, {ID: "20260102T1-b"}, {ID: "20260102T2-c"}}
	for id, want := range map[string]string{"": "20260102T2-c", "20260101": "20260101T1-a", "20260102T1": "20260102T1-b", "20260102": "", "x": ""} {
		got, err := backup.Find(all, id)
		if got.ID != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", id, got.ID, err)
		}
	}
	if _, err := backup.Find(nil, ""); !errors.Is(err, backup.ErrNotFound) {
		t.Error(err)
	}
}

// testdata/format1 was written when format 1 was new: what is in it can be restored for ever.
func TestFormat1(t *testing.T) {
	t.Parallel()
	from, err := fsblob.OpenReading("testdata/format1")
	if err != nil {
		t.Fatal(err)
	}
	all, err := backup.List(t.Context(), from)
	if err != nil || len(all) != 2 {
		t.Fatal(all, err)
	}
	want := map[string]string{
		"p packs/ab": "content of a pack", "p tables/t/data/x.parquet": "content of a table", "q packs/cd": "another",
		"row p/p/lake/x": "value", "row p/q/\xff": "\x00\x01",
	}
	for i, b := range all {
		if i == 1 {
			want["q packs/ef"] = "new"
		}
		back := newStore(t)
		if err := back.restore(b, from); err != nil || !cmp.Equal(want, back.content()) {
			t.Errorf("%v %v", err, cmp.Diff(want, back.content()))
		}
	}
}

// Somebody writes meanwhile, blobs before the rows that name them: a backup has no row without its blob.
func TestBesideAWriter(t *testing.T) {
	t.Parallel()
	s, to := newStore(t), memblob.New()
	s.put("p", "packs/first", "content")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			name := fmt.Sprintf("packs/%05d", i)
			if err := s.projects["p"].Put(context.Background(), name, strings.NewReader(name)); err != nil {
				t.Error(err)
				return
			}
			if _, err := s.rows.Txn(context.Background(), nil, []meta.Write{meta.Set(name, []byte(name))}); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	rows := 0
	for range 10 {
		b := s.mustBackup(to)
		back := newStore(t)
		if err := back.restore(b, to); err != nil {
			t.Fatal(err)
		}
		content := back.content()
		for key, name := range content {
			if strings.HasPrefix(key, "row ") {
				if rows++; content["p "+name] != name {
					t.Errorf("%s has no blob", key)
				}
			}
		}
	}
	close(stop)
	<-stopped
	if rows == 0 {
		t.Error("nothing was written meanwhile")
	}
}
