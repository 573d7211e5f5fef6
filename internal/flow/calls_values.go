package flow

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/call"
)

// Values that are too big for a message are files of their call. A worker sees an input's as a link in a folder of its own, read-only,
// and leaves a result in the sandbox's folder, from where it is moved. No byte is copied here.

// callerGone is how long a caller that waits for results may be without a connection.
const callerGone = 15 * time.Second

var (
	errNoValue   = errdef.New(errdef.NotFound, "call.no_value", "no such value")
	errValueSum  = errdef.New(errdef.DataLoss, "call.value_damaged", "a value was damaged on its way")
	errValueDisk = errdef.New(errdef.ResourceExhausted, "call.disk_full", "no room for a value")
)

// valueRef is a value in a file, on its way from or to a worker.
type valueRef struct {
	Name   string `json:"name"`
	Size   int64  `json:"size,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
}

// fetched tells that a result's value has reached the caller.
type fetched struct {
	done chan struct{}
	once bool
}

func (c *Call) valuePath(name string) string { return filepath.Join(c.folder, name) }

// newValue names a file for a value; the folder is there. kind is in or out.
func (c *Call) newValue(kind string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.released {
		return "", call.ErrCanceled
	}
	if err := os.MkdirAll(c.folder, 0o700); err != nil {
		return "", fmt.Errorf("make a folder for values: %w", err)
	}
	c.values++
	return fmt.Sprintf("%s-%d", kind, c.values), nil
}

// release removes what the call holds on disk, for good.
func (c *Call) release() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.released = true
	return errors.Join(c.Close(), os.RemoveAll(c.folder))
}

// ValueWriter takes the pieces of a value.
type ValueWriter struct {
	c    *Call
	name string
	file *os.File
	sum  hash.Hash
	size int64
}

// NewValue begins a value for an input.
func (c *Call) NewValue() (*ValueWriter, error) {
	name, err := c.newValue("in")
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(c.valuePath(name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, c.valueError(err)
	}
	return &ValueWriter{c: c, name: name, file: file, sum: sha256.New()}, nil
}

// Write implements io.Writer.
func (w *ValueWriter) Write(piece []byte) (int, error) {
	if err := call.Room(w.c.folder); err != nil {
		return 0, w.c.valueError(err)
	}
	w.sum.Write(piece) // a hash takes everything
	n, err := w.file.Write(piece)
	w.size += int64(n)
	return n, w.c.valueError(err)
}

// Close ends the value, whose hash must be this one, and returns its name.
func (w *ValueWriter) Close(sum string) (string, error) {
	err := w.c.valueError(w.file.Close())
	if got := hex.EncodeToString(w.sum.Sum(nil)); err == nil && got != sum {
		err = errValueSum.Errorf("%d bytes came with hash %s, and were sent with %q", w.size, got, sum)
	}
	if err != nil {
		return "", errors.Join(err, os.Remove(w.c.valuePath(w.name)))
	}
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	w.c.given[w.name] = w.size
	return w.name, nil
}

// Discard gives up a value that did not come to its end.
func (w *ValueWriter) Discard() error {
	return errors.Join(w.file.Close(), os.Remove(w.c.valuePath(w.name)))
}

func (c *Call) valueError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return errValueDisk.Errorf("a value of %s does not fit on the server's disk: %w", c.fn.fn.Name, err).WithNext("free space on that disk, or move TARN_HOME to a larger one")
	}
	return err
}

// Inputs are inputs for Put. big are the positions of those that came by NewValue. One that was put before may be gone.
func (c *Call) Inputs(inputs [][]byte, big map[int32]string) ([]call.Value, error) {
	out := make([]call.Value, len(inputs))
	for i, data := range inputs {
		out[i].Data = data
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, name := range big {
		size, ok := c.given[name]
		if !ok || int(i) >= len(out) || i < 0 {
			return nil, errNoValue.Errorf("call %s has no value %q for input %d", c.info.ID, name, i)
		}
		out[i].File = &call.File{Name: name, Size: size, Remove: func() { c.remove(name) }}
	}
	return out, nil
}

// remove frees a value's file. What cannot be removed goes with the folder.
func (c *Call) remove(name string) {
	if err := os.Remove(c.valuePath(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.fn.f.Log.Warn("remove a value", "call", c.info.ID, "error", err)
	}
}

// taken is the value of an answer: its bytes, or the file that the worker left in its folder. What was moved here has the size
// that the worker tells; the caller checks the hash.
func (c *Call) taken(w *callWorker, a answer) (call.Value, error) {
	if a.File == nil {
		return call.Value{Data: a.Data}, nil
	}
	bad := errBadAnswer.Errorf("%s: its value is not the file that it names", c.fn.fn.Name)
	if !strings.HasPrefix(a.File.Name, valuePrefix) || strings.ContainsAny(a.File.Name, "/\x00") {
		return call.Value{}, bad
	}
	name, err := c.newValue("out")
	if err != nil {
		return call.Value{}, err
	}
	path := c.valuePath(name)
	if err := os.Rename(filepath.Join(w.home, a.File.Name), path); err != nil {
		return call.Value{}, fmt.Errorf("take over a value of %s: %w", c.fn.fn.Name, err)
	}
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() != a.File.Size {
		return call.Value{}, errors.Join(bad, os.RemoveAll(path))
	}
	c.mu.Lock()
	c.fetches[name] = &fetched{done: make(chan struct{})}
	c.mu.Unlock()
	return call.Value{File: &call.File{Name: name, Size: a.File.Size, SHA256: a.File.SHA256, Remove: func() { c.remove(name) }}}, nil
}

// valuePrefix begins the names of files in which workers leave values.
const valuePrefix = ".tarn-value-"

// Value opens a result's value. The caller calls done when all of it was sent.
func (c *Call) Value(name string) (file *os.File, done func(), err error) {
	c.mu.Lock()
	f := c.fetches[name]
	c.mu.Unlock()
	gone := errNoValue.Errorf("value %s of call %s is no longer kept", name, c.info.ID)
	if f == nil {
		return nil, nil, gone
	}
	file, err = os.Open(c.valuePath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, gone
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read a value: %w", err)
	}
	return file, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !f.once {
			f.once = true
			close(f.done)
		}
	}, nil
}

// Fetched waits until the caller has a result's value. Before that no further result is sent: a message is small, and its value
// would be dropped as sent while it waits behind others.
func (c *Call) Fetched(ctx context.Context, v call.Value) error {
	if v.File == nil {
		return nil
	}
	c.mu.Lock()
	f := c.fetches[v.File.Name]
	c.mu.Unlock()
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Attend says that the caller has a connection, until left is called.
func (c *Call) Attend() (left func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attending++
	c.gone.Stop()
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.attending--; c.attending == 0 && c.waits {
			c.gone.Reset(callerGone)
		}
	}
}

// abandoned ends a call whose caller waited, and has gone.
func (c *Call) abandoned() {
	c.mu.Lock()
	back := c.attending > 0
	c.mu.Unlock()
	if back {
		return
	}
	c.Cancel()
	if err := c.release(); err != nil {
		c.fn.f.Log.Warn("remove values", "call", c.info.ID, "error", err)
	}
}
