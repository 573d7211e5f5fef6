package cacheblob

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/zeebo/xxh3"
	"golang.org/x/sync/errgroup"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob"
)

const (
	// parallel bounds the parts that are in memory at a time, and so the requests under way.
	parallel = 16
	// maxRun bounds what one request asks for: neighbors come together.
	maxRun = 16 << 20
)

// errShort means that a blob has not the size that was said.
var errShort = errdef.New(errdef.DataLoss, "blob.short", "the blob is shorter than what was written")

// part is a piece of a blob that somebody wants.
type part struct {
	blob.Range
	n       int // among those that were asked for
	replica *replica
}

// Ranges implements blob.FarStore.
func (s *store) Ranges(ctx context.Context, name string, size int64, wanted []blob.Range, take func(int, []byte) error) error {
	if err := blob.CheckName(name); err != nil {
		return err
	}
	parts := make([]part, len(wanted))
	for i, r := range wanted {
		if r.Offset < 0 || r.Length < 0 || r.Length > blob.MaxRange || r.End() > size {
			return errdef.Newf(errdef.Internal, "blob.range", "bytes %d to %d of %s, which has %d, are no range", r.Offset, r.End(), name, size)
		}
		parts[i] = part{Range: r, n: i}
	}
	slices.SortFunc(parts, func(a, b part) int { return cmp.Compare(a.Offset, b.Offset) })
	for len(parts) > 0 {
		var err error
		if parts, err = s.round(ctx, name, size, parts, take); err != nil {
			return err
		}
	}
	return nil
}

// round takes parts that are here, and fetches those that nobody else fetches. It returns those that are still
// missing: another caller failed to fetch them, or a copy was damaged.
func (s *store) round(ctx context.Context, name string, size int64, parts []part, take func(int, []byte) error) (missing []part, err error) {
	var runs [][]part // to be fetched, each by one request
	var here []part
	for _, p := range parts {
		var first bool
		// The size is part of the name: a blob that was deleted and put again with other bytes has another one.
		p.replica, first = s.cache.use(s.idOf(name, fmt.Sprintf("\x00%d/%d+%d", size, p.Offset, p.Length)))
		switch last := len(runs) - 1; {
		case !first:
			here = append(here, p)
		case last >= 0 && continues(runs[last], p):
			runs[last] = append(runs[last], p)
		default:
			runs = append(runs, []part{p})
		}
	}
	all, fetching := errgroup.WithContext(ctx)
	all.SetLimit(parallel)
	for _, run := range runs { // each is settled, whatever has happened to the others
		all.Go(func() error { return s.fetchRun(fetching, name, run, take) })
	}
	if err := all.Wait(); err != nil {
		for _, p := range here {
			s.cache.rest(p.replica)
		}
		return nil, err
	}
	all, waiting := errgroup.WithContext(ctx)
	all.SetLimit(parallel)
	again := make([]bool, len(here))
	for i, p := range here {
		all.Go(func() (err error) {
			again[i], err = s.takeCopy(waiting, p, take)
			return err
		})
	}
	if err := all.Wait(); err != nil {
		return nil, err
	}
	for i, p := range here {
		if again[i] {
			missing = append(missing, p)
		}
	}
	return missing, nil
}

// continues says whether a part comes next in a run that may still grow.
func continues(run []part, p part) bool {
	return run[len(run)-1].End() == p.Offset && p.End()-run[0].Offset <= maxRun
}

// fetchRun makes the copies of neighboring parts.
func (s *store) fetchRun(ctx context.Context, name string, run []part, take func(int, []byte) error) error {
	var src io.ReadCloser
	err := s.cache.acquire(ctx)
	if err == nil {
		defer s.cache.release()
		src, err = s.Get(ctx, name, run[0].Offset, run[len(run)-1].End()-run[0].Offset)
	}
	if err == nil {
		defer src.Close() // only read
	}
	for _, p := range run {
		var data []byte
		if err == nil {
			data = make([]byte, p.Length)
			if _, err = io.ReadFull(src, data); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = errShort.Errorf("%s ends before byte %d", name, p.End())
			}
		}
		s.cache.settleData(p.replica, data, err)
		if err == nil {
			err = take(p.n, data)
		}
	}
	return err
}

// takeCopy takes a part that somebody else has fetched, or fetches. It says if it has to be fetched again.
func (s *store) takeCopy(ctx context.Context, p part, take func(int, []byte) error) (again bool, err error) {
	defer s.cache.rest(p.replica)
	select {
	case <-p.replica.made:
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
	if p.replica.failed != nil {
		return true, nil
	}
	if err := s.cache.acquire(ctx); err != nil {
		return false, err
	}
	defer s.cache.release()
	data, ok := s.cache.read(p.replica)
	if !ok {
		return true, nil
	}
	return false, take(p.n, data)
}

// smallID is what the checked copy of a whole blob is called; the one for programs that read files is another.
func (s *store) smallID(name string) string { return s.idOf(name, "\x00") }

// Small implements blob.FarStore.
func (s *store) Small(ctx context.Context, name string) ([]byte, error) {
	if err := blob.CheckName(name); err != nil {
		return nil, err
	}
	for {
		r, first := s.cache.use(s.smallID(name))
		if first {
			data, err := blob.ReadAll(ctx, s.Store, name)
			s.cache.settleData(r, data, err)
			return data, err
		}
		select {
		case <-r.made:
		case <-ctx.Done():
			s.cache.rest(r)
			return nil, context.Cause(ctx)
		}
		var data []byte
		ok := false
		if r.failed == nil {
			data, ok = s.cache.read(r)
		}
		s.cache.rest(r)
		if ok {
			return data, nil
		}
	}
}

// Held implements blob.FarStore.
func (s *store) Held(ctx context.Context, name string) (string, bool) {
	if blob.CheckName(name) != nil || blob.CheckEnds(ctx, name) != nil || !s.cache.has(s.id(name)) {
		return "", false
	}
	path, err := s.File(ctx, name)
	return path, err == nil
}

func (c *Cache) acquire(ctx context.Context) error {
	select {
	case c.fetching <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *Cache) release() { <-c.fetching }

// has says whether the copy of a blob is made.
func (c *Cache) has(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.copies[id]
	if r == nil {
		return false
	}
	select {
	case <-r.made:
		return r.failed == nil
	default:
		return false
	}
}

// settleData makes the copy of what was read, unless that failed, and ends the caller's use of it. Without a copy the
// next reader fetches the bytes again.
func (c *Cache) settleData(r *replica, data []byte, failed error) {
	if r.failed = failed; failed == nil {
		r.failed = c.write(r, data)
	}
	c.settle(r)
	c.rest(r)
}

func (c *Cache) write(r *replica, data []byte) error {
	f, err := os.CreateTemp(c.dir, unfinished)
	if err != nil {
		return classify(err, "keep a copy")
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return classify(errors.Join(err, os.Remove(f.Name())), "keep a copy")
	}
	r.size = int64(len(data))
	r.path = filepath.Join(c.dir, fmt.Sprintf("%s-%d-%s", r.id, r.size, checksum(data)))
	if err := os.Rename(f.Name(), r.path); err != nil {
		return classify(errors.Join(err, os.Remove(f.Name())), "keep a copy")
	}
	return nil
}

// read returns what a copy holds, if it is what was written: a crash may have cut it, a disk may have changed it.
func (c *Cache) read(r *replica) ([]byte, bool) {
	data, err := os.ReadFile(r.path)
	if err != nil || !strings.HasSuffix(r.path, "-"+checksum(data)) {
		c.forget(r.id)
		return nil, false
	}
	return data, true
}

func checksum(data []byte) string { return fmt.Sprintf("%016x", xxh3.Hash(data)) }
