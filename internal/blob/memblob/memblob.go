// Package memblob keeps blobs in memory: the model that tests of other packages and of other stores
// compare with. Nothing survives the process.
package memblob

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"tarn.dev/tarn/internal/blob"
)

// Store is a blob.Store in memory.
type Store struct {
	mu    sync.RWMutex
	blobs map[string]object
}

type object struct {
	data  []byte // never changed after Put
	mtime time.Time
}

// New returns an empty store.
func New() *Store { return &Store{blobs: map[string]object{}} }

// Put implements blob.Store.
func (s *Store) Put(ctx context.Context, name string, r io.Reader) error {
	if err := blob.CheckName(name); err != nil {
		return err
	}
	s.mu.RLock()
	_, taken := s.blobs[name]
	s.mu.RUnlock()
	if taken {
		return blob.ErrExists.Errorf("blob %s exists", name)
	}
	data, err := io.ReadAll(blob.ReaderWithContext(ctx, r))
	if err != nil {
		return fmt.Errorf("put blob %s: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.blobs[name]; taken {
		return blob.ErrExists.Errorf("blob %s exists", name)
	}
	s.blobs[name] = object{data, time.Now()}
	return nil
}

// Get implements blob.Store.
func (s *Store) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	o, err := s.find(ctx, name)
	if err != nil {
		return nil, err
	}
	data := o.data[min(max(offset, 0), int64(len(o.data))):]
	if length >= 0 && length < int64(len(data)) {
		data = data[:length]
	}
	return io.NopCloser(blob.ReaderWithContext(ctx, bytes.NewReader(data))), nil
}

// Stat implements blob.Store.
func (s *Store) Stat(ctx context.Context, name string) (blob.Info, error) {
	o, err := s.find(ctx, name)
	if err != nil {
		return blob.Info{}, err
	}
	return blob.Info{Name: name, Size: int64(len(o.data)), ModTime: o.mtime}, nil
}

// List implements blob.Store. It yields what existed when it was called.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		s.mu.RLock()
		var found []blob.Info
		for name, o := range s.blobs {
			if strings.HasPrefix(name, prefix) {
				found = append(found, blob.Info{Name: name, Size: int64(len(o.data)), ModTime: o.mtime})
			}
		}
		s.mu.RUnlock()
		slices.SortFunc(found, func(a, b blob.Info) int { return strings.Compare(a.Name, b.Name) })
		for _, info := range found {
			if ctx.Err() != nil {
				yield(blob.Info{}, context.Cause(ctx))
				return
			}
			if !yield(info, nil) {
				return
			}
		}
	}
}

// Delete implements blob.Store.
func (s *Store) Delete(ctx context.Context, name string) error {
	if _, err := s.find(ctx, name); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.blobs[name]; !ok {
		return blob.ErrNotFound.Errorf("no blob %s", name)
	}
	delete(s.blobs, name)
	return nil
}

// URI implements blob.Store. Nothing outside this process can read it.
func (s *Store) URI(name string) string { return "mem:///" + name }

func (s *Store) find(ctx context.Context, name string) (object, error) {
	if err := blob.CheckName(name); err != nil {
		return object{}, err
	}
	if ctx.Err() != nil {
		return object{}, context.Cause(ctx)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	o, ok := s.blobs[name]
	if !ok {
		return object{}, blob.ErrNotFound.Errorf("no blob %s", name)
	}
	return o, nil
}
