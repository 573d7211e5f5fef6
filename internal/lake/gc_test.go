package lake_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/lake/laketest"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/lease"
)

// content is n bytes that zstd does not make smaller.
func content(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b) // never fails
	return b
}

// putContent commits one file with that content.
func putContent(t testing.TB, l *lake.Lake, branch, name string, data []byte) lake.Commit {
	t.Helper()
	c, err := l.Update(t.Context(), branch, lake.CommitInfo{}, func(ctx context.Context, tx *lake.Tx) error {
		ref, err := tx.Batch().PutFile(ctx, bytes.NewReader(data))
		tx.Put(lake.FileKey(name), lake.FileEntry(ref))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func fileContent(t testing.TB, l *lake.Lake, ref, name string) []byte {
	t.Helper()
	c, err := l.Resolve(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	e, ok, err := l.Tree(c.Tree).Get(t.Context(), lake.FileKey(name))
	if err != nil || !ok {
		t.Fatalf("%s at %s: %v, %v", name, ref, ok, err)
	}
	r, err := l.OpenFile(t.Context(), e.Location.Ref)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	return data
}

func collect(t testing.TB, l *lake.Lake, opt lake.CollectOptions) lake.Collected {
	t.Helper()
	got, err := l.Collect(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func storedIn(t testing.TB, blobs blob.Store) (n int64) {
	t.Helper()
	for info, err := range blobs.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		n += info.Size
	}
	return n
}

// A deleted branch's content goes when it is past its time, and nothing else.
func TestCollectDeletedBranch(t *testing.T) {
	t.Parallel()
	blobs, rows := stores(t)
	l := laketest.OpenOn(t, blobs, rows, lake.Options{})
	kept := content(1, 100_000)
	putContent(t, l, "main", "kept", kept)
	branch(t, l, "dev", "main")
	for i := range 20 {
		putContent(t, l, "dev", fmt.Sprint("big", i), content(uint64(10+i), 100_000))
	}
	gone := resolve(t, l, "dev")
	if _, err := l.DeleteBranch(t.Context(), "dev", ""); err != nil {
		t.Fatal(err)
	}
	if got := collect(t, l, lake.CollectOptions{Keep: time.Hour}); got != (lake.Collected{}) {
		t.Errorf("within its time: %+v", got)
	}
	would := collect(t, l, lake.CollectOptions{DryRun: true})
	before := storedIn(t, blobs)
	got := collect(t, l, lake.CollectOptions{})
	if would != got {
		t.Errorf("it would free %+v, it freed %+v", would, got)
	}
	if got.Commits != 20 || got.Packs != 20 || got.Bytes < 2_000_000 || got.Bytes != before-storedIn(t, blobs) {
		t.Errorf("%+v, of %d bytes %d are left", got, before, storedIn(t, blobs))
	}
	if data := fileContent(t, l, "main", "kept"); !bytes.Equal(data, kept) {
		t.Error("the file of main is another one")
	}
	if _, err := l.Resolve(t.Context(), gone.ID.String()); !errors.Is(err, lake.ErrRefNotFound) {
		t.Errorf("a commit that was collected: %v", err)
	}
	if got := collect(t, l, lake.CollectOptions{}); got != (lake.Collected{}) {
		t.Errorf("again: %+v", got)
	}
}

// A pack that is mostly dead is written again with what is reached in it.
func TestCollectRewrites(t *testing.T) {
	t.Parallel()
	blobs, rows := stores(t)
	l := laketest.OpenOn(t, blobs, rows, lake.Options{})
	small := content(1, 5000)
	branch(t, l, "dev", "main")
	_, err := l.Update(t.Context(), "dev", lake.CommitInfo{}, func(ctx context.Context, tx *lake.Tx) error {
		for i, data := range [][]byte{small, content(2, 100_000), content(3, 100_000)} {
			ref, err := tx.Batch().PutFile(ctx, bytes.NewReader(data))
			if err != nil {
				return err
			}
			tx.Put(lake.FileKey(fmt.Sprint("f", i)), lake.FileEntry(ref))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	putContent(t, l, "main", "same", small) // relies on dev's pack
	if _, err := l.DeleteBranch(t.Context(), "dev", ""); err != nil {
		t.Fatal(err)
	}
	other := laketest.OpenOn(t, blobs, rows, lake.Options{}) // knows the old place
	got := collect(t, l, lake.CollectOptions{})
	if got.Rewritten != 1 || got.Bytes < 190_000 {
		t.Errorf("%+v", got)
	}
	for _, reader := range []*lake.Lake{l, other} {
		if data := fileContent(t, reader, "main", "same"); !bytes.Equal(data, small) {
			t.Error("what shared the pack is another content")
		}
	}
}

// What crashed writers left goes, also packs and segments without a row.
func TestCollectUnnamed(t *testing.T) {
	t.Parallel()
	blobs, rows := stores(t)
	l := laketest.OpenOn(t, blobs, rows, lake.Options{})
	b := l.Begin(t.Context())
	if _, err := b.Put(t.Context(), lake.TypeRecord, content(1, 10_000)); err != nil {
		t.Fatal(err)
	}
	if err := b.Flush(t.Context()); err != nil { // nothing names it
		t.Fatal(err)
	}
	b.Discard()
	for _, name := range []string{"index/" + strings.Repeat("ab", 16), "packs/ab/" + strings.Repeat("ab", 32)} {
		if err := blobs.Put(t.Context(), name, strings.NewReader("half")); err != nil {
			t.Fatal(err)
		}
	}
	got := collect(t, l, lake.CollectOptions{})
	if got.Packs != 1 || got.Blobs != 2 {
		t.Errorf("%+v", got)
	}
	if stats := laketest.Fsck(t.Context(), t, l); stats.Garbage != 0 {
		t.Errorf("%d blobs without a row are left", stats.Garbage)
	}
}

// What an operation has stored stays until it ends, in another process too, and a collection waits for it.
func TestCollectWaitsForOperations(t *testing.T) {
	t.Parallel()
	blobs, rows := stores(t)
	l := laketest.OpenOn(t, blobs, rows, lake.Options{})
	other := laketest.OpenOn(t, blobs, rows, lake.Options{})
	data := content(1, 50_000)
	leave := other.Enter()
	b := other.Begin(t.Context())
	ref, err := b.PutFile(t.Context(), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.Discard()

	waits := make(chan struct{})
	progress := func(what string) {
		if strings.Contains(what, "what began before") {
			select {
			case <-waits:
			default:
				close(waits)
			}
		}
	}
	type result struct {
		got lake.Collected
		err error
	}
	done := make(chan result, 1)
	go func() {
		got, err := l.Collect(t.Context(), lake.CollectOptions{Progress: progress})
		done <- result{got, err}
	}()
	<-waits // its pack is condemned now
	_, err = other.Update(t.Context(), "main", lake.CommitInfo{}, func(ctx context.Context, tx *lake.Tx) error {
		tx.Put(lake.FileKey("late"), lake.FileEntry(ref))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	leave()
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	for _, reader := range []*lake.Lake{l, other} {
		if !bytes.Equal(fileContent(t, reader, "main", "late"), data) {
			t.Error("the file is another one")
		}
	}
}

// A collection that may not wait ends with what is condemned still readable; the next one goes on.
func TestCollectGivesUp(t *testing.T) {
	t.Parallel()
	l := laketest.New(t)
	b := l.Begin(t.Context())
	h, err := b.Put(t.Context(), lake.TypeRecord, content(1, 10_000))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = l.Collect(ctx, lake.CollectOptions{Progress: func(what string) {
		if strings.Contains(what, "what began before") {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "lake of process") {
		t.Errorf("%v", err)
	}
	if _, err := l.Get(t.Context(), lake.TypeRecord, h); err != nil {
		t.Errorf("a condemned object: %v", err)
	}
	b.Discard()
	if got := collect(t, l, lake.CollectOptions{}); got.Packs != 1 {
		t.Errorf("%+v", got)
	}
}

// A session that was fenced while it slept can make nothing findable.
func TestFencedSessionStoresNothing(t *testing.T) {
	t.Parallel()
	blobs, rows := stores(t)
	l := laketest.OpenOn(t, blobs, rows, lake.Options{})
	b := l.Begin(t.Context())
	defer b.Discard()
	if _, err := b.Put(t.Context(), lake.TypeRecord, content(1, 1000)); err != nil {
		t.Fatal(err)
	}
	for taken, err := range lease.Sessions(t.Context(), rows, "s") {
		if err == nil {
			err = lease.FenceGone(t.Context(), rows, taken.Key)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Flush(t.Context()); !errors.Is(err, lease.ErrLost) {
		t.Errorf("flush: %v", err)
	}
}

// A commit that is named again while it is collected stays, with its history.
func TestCollectSparesWhatIsNamedAgain(t *testing.T) {
	t.Parallel()
	blobs, rows := stores(t)
	between := &meddler{Store: rows}
	l := laketest.OpenOn(t, blobs, between, lake.Options{})
	branch(t, l, "dev", "main")
	putContent(t, l, "dev", "a", content(1, 10_000))
	head := putContent(t, l, "dev", "b", content(2, 10_000))
	if _, err := l.DeleteBranch(t.Context(), "dev", ""); err != nil {
		t.Fatal(err)
	}
	between.before(head.ID.String(), func() { branch(t, l, "again", head.ID.String()) })
	got := collect(t, l, lake.CollectOptions{})
	if got.Commits != 0 || got.Packs != 0 {
		t.Errorf("%+v", got)
	}
	for _, name := range []string{"a", "b"} {
		fileContent(t, l, "again", name)
	}
}

// meddler does something right before a transaction that deletes a key with a given ending.
type meddler struct {
	meta.Store
	mu     sync.Mutex
	ending string
	do     func()
}

func (m *meddler) before(ending string, do func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ending, m.do = ending, do
}

func (m *meddler) Txn(ctx context.Context, conditions []meta.Condition, writes []meta.Write) (int64, error) {
	for _, w := range writes {
		m.mu.Lock()
		do := m.do
		if w.Delete && do != nil && strings.HasSuffix(w.Key, m.ending) {
			m.do = nil
		} else {
			do = nil
		}
		m.mu.Unlock()
		if do != nil {
			do()
		}
	}
	return m.Store.Txn(ctx, conditions, writes)
}

// Writers on two processes go on while a third party collects again and again: nobody notices.
func TestCollectBesideWriters(t *testing.T) {
	t.Parallel()
	blobs, rows := stores(t)
	lakes := []*lake.Lake{laketest.OpenOn(t, blobs, rows, lake.Options{}), laketest.OpenOn(t, blobs, rows, lake.Options{})}
	var writers sync.WaitGroup
	for w, l := range lakes {
		writers.Go(func() {
			for i := range 15 {
				name := fmt.Sprintf("w%d-%d", w, i)
				branch(t, l, name, "main")
				// Half of the contents are those of another branch, which may be going.
				putContent(t, l, name, "x", content(uint64(i/2), 20_000))
				if i%3 == 0 {
					if _, _, err := l.Merge(t.Context(), resolve(t, l, name).ID, "main", lake.CommitInfo{Message: "m"}, lake.MergeOptions{Prefer: map[string]lake.Side{lake.FileKey("x"): lake.Source}}, nil, false); err != nil && !errors.Is(err, lake.ErrInvalidPrefer) {
						t.Error(err)
					}
				}
				if _, err := l.DeleteBranch(t.Context(), name, ""); err != nil {
					t.Error(err)
				}
			}
		})
	}
	written := make(chan struct{})
	go func() { writers.Wait(); close(written) }()
	freed := lake.Collected{}
	for more := true; more; {
		select {
		case <-written:
			more = false
		default:
		}
		got := collect(t, lakes[0], lake.CollectOptions{})
		freed.Packs += got.Packs
		freed.Commits += got.Commits
	}
	if freed.Packs == 0 || freed.Commits == 0 {
		t.Errorf("nothing was freed: %+v", freed)
	}
	fileContent(t, lakes[1], "main", "x")
}

// indexed counts the entries of index segments.
func indexed(t *testing.T, rows meta.Store) (segments int, entries int64) {
	t.Helper()
	for row, err := range rows.Scan(t.Context(), meta.Prefix("")) {
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(row.Key, "/packs/s/") {
			continue
		}
		var s struct{ Objects int64 }
		if err := json.Unmarshal(row.Value, &s); err != nil {
			t.Fatal(err)
		}
		segments++
		entries += s.Objects
	}
	return segments, entries
}

// Entries of packs that went do not stay in the index, though it names others that are there.
func TestCollectThinsTheIndex(t *testing.T) {
	t.Parallel()
	blobs, rows := stores(t)
	l := laketest.OpenOn(t, blobs, rows, lake.Options{})
	folded := rows.Watch(t.Context(), laketest.Prefix+"packs/s/", -1)
	branch(t, l, "dev", "main")
	for i := range 60 {
		on := "dev"
		if i%10 == 0 {
			on = "main"
		}
		putContent(t, l, on, fmt.Sprint("f", i), content(uint64(i), 20_000))
	}
	for _, err := range folded {
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	_, before := indexed(t, rows)
	if _, err := l.DeleteBranch(t.Context(), "dev", ""); err != nil {
		t.Fatal(err)
	}
	collect(t, l, lake.CollectOptions{})
	if segments, after := indexed(t, rows); segments == 0 || 4*after > before {
		t.Errorf("%d entries in %d segments, %d before", after, segments, before)
	}
	laketest.Fsck(t.Context(), t, l)
	if data := fileContent(t, l, "main", "f0"); !bytes.Equal(data, content(0, 20_000)) {
		t.Error("the file of main is another one")
	}
}

// Who waits for a collection, a backup or a check is told so, and nobody else is.
func TestWaitingForTheTurnIsSaid(t *testing.T) {
	t.Parallel()
	blobs, rows := stores(t)
	l := laketest.OpenOn(t, blobs, rows, lake.Options{})
	silent := func(what string) { t.Errorf("nobody has the turn: %s", what) }
	release, err := l.Undisturbed(t.Context(), silent)
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 1)
	collected := make(chan error, 1)
	go func() {
		_, err := l.Collect(t.Context(), lake.CollectOptions{Progress: func(what string) {
			select {
			case said <- what:
			default: // what follows the wait
			}
		}})
		collected <- err
	}()
	if what := <-said; !strings.Contains(what, "waiting for a collection, backup or check") {
		t.Error(what)
	}
	select {
	case err := <-collected:
		t.Errorf("it did not wait: %v", err)
	default:
	}
	if err := errors.Join(release(t.Context()), <-collected); err != nil {
		t.Error(err)
	}
}
