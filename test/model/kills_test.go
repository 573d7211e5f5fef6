//go:build fault

package model

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob/s3blob/s3test"
	"tarn.dev/tarn/internal/client"
)

var kills = flag.Int("kills", 10, "how often TestRandomKills kills a server of each stack")

// TestRandomKills kills servers at any moment while clients write, merge, read and remove, and garbage is collected. A
// client whose server is gone sends the same request again, to another server if there is one. Then each request has been
// done once, what clients know to be there is, and once their branch is gone, so is all that they and the crashes left.
func TestRandomKills(t *testing.T) {
	t.Parallel()
	bucket := s3test.Start(t)
	at := &places{t: t, s3: bucket}
	for name, open := range map[string]func() (*stack, error){"embedded": at.embedded, "shared": at.shared} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := open()
			t.Cleanup(func() {
				if err := s.close(); err != nil {
					t.Error(err)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			randomKills(t, s, func() int {
				if name == "embedded" {
					return filesUnder(t, s.servers[0].home.Project(project))
				}
				return objectsIn(t, bucket, at.bucket)
			})
		})
	}
}

// branchOfLoad is where the clients work.
const branchOfLoad = "load"

func randomKills(t *testing.T, s *stack, stored func() int) {
	l := &load{stack: s, t: t, acknowledged: make(chan struct{}, 1000), end: make(chan struct{})}
	l.must(createBranch(branchOfLoad, "main"))
	before := l.collected()
	blobs := stored()
	var wg sync.WaitGroup
	workers := make([]*worker, 4)
	for i := range workers {
		workers[i] = &worker{load: l, number: i, rng: rand.New(rand.NewPCG(uint64(i), 1)), has: map[string]content{}}
		wg.Go(workers[i].work)
	}
	wg.Go(func() {
		for !l.ended() {
			l.must(collect(false))
		}
	})
	stopped := make(chan struct{}) // after a failure they end by themselves
	go func() {
		wg.Wait()
		close(stopped)
	}()
	rng := rand.New(rand.NewPCG(1, 2))
	for range *kills {
		for range 1 + rng.IntN(20) {
			select {
			case <-l.acknowledged:
			case <-stopped:
			}
		}
		l.kill(rng.IntN(len(s.servers)))
	}
	close(l.end)
	<-stopped
	commits := l.must(commits(branchOfLoad)).Seen
	want := 1
	var files []string
	for _, w := range workers {
		want += w.changes
		for name, c := range w.has {
			files = append(files, sum(name, c.bytes()))
		}
	}
	if len(commits) != want {
		t.Errorf("there are %d commits, and %d changes were acknowledged", len(commits), want-1)
	}
	got := l.must(get(branchOfLoad, "**")).Seen
	slices.Sort(files)
	slices.Sort(got)
	if diff := cmp.Diff(files, got); diff != "" {
		t.Errorf("what is stored (-want +got):\n%s", diff)
	}
	l.clean()
	t.Logf("%d kills: %d changes were acknowledged, %d files are there; %d calls were repeated", *kills, want-1, len(files), l.repeated)
	l.must(deleteBranch(branchOfLoad))
	l.must(collect(false))
	if after := l.collected(); after != before {
		t.Errorf("not freed: %s; before it was %s", after, before)
	}
	if left := stored(); left > blobs {
		t.Errorf("%d blobs are stored, and %d were before", left, blobs)
	}
	l.clean()
}

// load is clients at work while servers are killed.
type load struct {
	*stack
	t            *testing.T
	mu           sync.RWMutex // held by who kills and starts a server
	acknowledged chan struct{}
	end          chan struct{}

	count    sync.Mutex
	repeated int
	next     int
}

func (l *load) ended() bool {
	select {
	case <-l.end:
		return true
	default:
		return l.t.Failed()
	}
}

func (l *load) kill(number int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := errors.Join(l.servers[number].kill(), l.servers[number].start("")); err != nil {
		l.t.Errorf("%s: %v", l.name, err)
	}
}

// must does an operation, and again when its server is killed: on the next one, when that is up.
func (l *load) must(op operation) outcome {
	l.count.Lock()
	l.next++
	number := l.next
	l.count.Unlock()
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	defer cancel()
	for ; ; number++ {
		l.mu.RLock()
		c := l.servers[number%len(l.servers)].client
		l.mu.RUnlock()
		out, err := op(ctx, c, l.stack)
		switch {
		case errors.Is(err, client.ErrUnreachable) && ctx.Err() == nil:
			l.count.Lock()
			l.repeated++
			l.count.Unlock()
			continue
		case err != nil:
			l.t.Errorf("%s: %s: %v", l.name, errdef.As(err).Reason, err)
		}
		return out
	}
}

func (l *load) clean() {
	l.t.Helper()
	for range l.servers {
		if found := l.must(fsck()).Seen; len(found) > 0 {
			l.t.Errorf("fsck: %v", found)
		}
	}
}

// collected is what is garbage still.
func (l *load) collected() string { return fmt.Sprint(l.must(collect(true)).Seen) }

// worker is one client, with a folder of its own.
type worker struct {
	*load
	number, branches, changes int
	rng                       *rand.Rand
	has                       map[string]content
}

func (w *worker) work() {
	for !w.ended() {
		switch w.rng.IntN(6) {
		case 0:
			w.merge()
		case 1:
			w.remove()
		case 2:
			w.read()
		default:
			w.put(branchOfLoad)
		}
		select {
		case w.acknowledged <- struct{}{}:
		default: // enough are waiting for it
		}
	}
}

func (w *worker) put(into string) {
	files := map[string]content{}
	for range 1 + w.rng.IntN(3) {
		files[fmt.Sprintf("%d/%d", w.number, w.rng.IntN(20))] = content{Seed: byte(w.rng.IntN(256)), Size: int64(1) << w.rng.IntN(20)}
	}
	if w.must(put(into, files)).Changed {
		w.changes++
	}
	for name, c := range files {
		w.has[name] = c
	}
}

// merge brings a branch with a change back to where it began, always as a commit of its own.
func (w *worker) merge() {
	w.branches++
	name := fmt.Sprintf("w%d-%d", w.number, w.branches)
	w.must(createBranch(name, branchOfLoad))
	changes := w.changes
	w.put(name)
	if w.changes > changes && w.must(mergeInto(branchOfLoad, name, "Bring it back", nil, false)).Changed {
		w.changes++
	}
	w.must(deleteBranch(name))
}

func (w *worker) remove() {
	for name := range w.has {
		w.must(remove(branchOfLoad, name))
		w.changes++
		delete(w.has, name)
		return
	}
}

func (w *worker) read() {
	for name, c := range w.has {
		if got := w.must(get(branchOfLoad, name)).Seen; !slices.Equal(got, []string{sum(name, c.bytes())}) {
			w.t.Errorf("%s is %v, and %v was stored", name, got, c)
		}
		return
	}
}

// isIndex tells the segments of the index from other blobs: they are of use to finding things only, and one that knows
// of packs that are gone is replaced when the index is folded next.
func isIndex(name string) bool { return strings.Contains(name, "/index/") }

func filesUnder(t *testing.T, dir string) (n int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !isIndex(name) {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func objectsIn(t *testing.T, server *s3test.Server, bucket string) (n int) {
	t.Helper()
	pages := s3.NewListObjectsV2Paginator(server.Client(), &s3.ListObjectsV2Input{Bucket: &bucket})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, object := range page.Contents {
			if !isIndex(*object.Key) {
				n++
			}
		}
	}
	return n
}
