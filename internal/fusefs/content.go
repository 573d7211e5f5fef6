package fusefs

import (
	"context"
	"errors"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	// blockSize is in what files are read and kept.
	blockSize = 1 << 20
	// smallFile is the longest file that is read together with others.
	smallFile = 128 << 10
	// Who reads on where the last read ended gets the next window in advance, each twice as large as the one before.
	firstSmall, maxSmall = 64 << 10, 1 << 20
	firstLarge, maxLarge = 2 * blockSize, 4 * blockSize
	// keptBytes bounds what is kept here. The kernel keeps what was read; this is for what will be.
	keptBytes = 64 << 20
	// forecasts is for how many readers it is remembered where they may go on.
	forecasts = 256
)

// place is a block of a file.
type place struct {
	path  string
	block int64
}

// block is bytes that are there when ready is closed.
type block struct {
	ready chan struct{}
	data  []byte
	err   error
}

// forecast is what to fetch when a reader comes to a place.
type forecast struct {
	from   place
	size   int64 // of the file; of small ones unknown
	window int64
}

// batch is small files on their way: all that come after one, until the budget is spent.
type batch struct {
	from string
	done chan struct{}
}

// content fetches and keeps the bytes of files. What is read straight on, within a file or from small file to small
// file in the order of the tree, is there before it is asked for.
type content struct {
	tree    Tree
	ctx     context.Context //nolint:containedctx // of the mount: who began to wait for a block may be gone before it comes
	fetches sync.WaitGroup

	mu       sync.Mutex
	kept     *simplelru.LRU[place, *block]
	bytes    int64
	awaited  map[place]*block
	batches  map[*batch]bool
	foretold *simplelru.LRU[place, forecast]
}

func newContent(ctx context.Context, t Tree) *content {
	c := &content{tree: t, ctx: ctx, awaited: map[place]*block{}, batches: map[*batch]bool{}}
	// Sizes above zero never fail; the real bound of the first is bytes.
	c.kept, _ = simplelru.NewLRU(keptBytes/1024, func(_ place, b *block) { c.bytes -= int64(len(b.data)) })
	c.foretold, _ = simplelru.NewLRU[place, forecast](forecasts, nil)
	return c
}

// read returns a part of a file of that size, which ends at the file's end at the latest.
func (c *content) read(interrupted <-chan struct{}, path string, size, offset, length int64) ([][]byte, error) {
	var parts [][]byte
	for end := min(offset+length, size); offset < end; {
		at := place{path, offset / blockSize}
		data, err := c.block(interrupted, at, size)
		if err != nil {
			return nil, err
		}
		begin := at.block * blockSize
		if int64(len(data)) != min(blockSize, size-begin) {
			return nil, ErrWrong.Errorf("%s has %d bytes at %d, not %d", path, len(data), begin, min(blockSize, size-begin))
		}
		part := data[offset-begin : min(end-begin, blockSize)]
		parts, offset = append(parts, part), offset+int64(len(part))
	}
	return parts, nil
}

// block returns the bytes at a place. What a fetch failed to bring is fetched again, once: that may have failed at
// another file, or with a server that there is again.
func (c *content) block(interrupted <-chan struct{}, at place, size int64) ([]byte, error) {
	b, pending := c.touch(at, size, true)
	if pending != nil {
		if err := await(interrupted, pending); err != nil {
			return nil, err
		}
		b, _ = c.touch(at, size, false)
	}
	if err := await(interrupted, b.ready); err != nil {
		return nil, err
	}
	if b.err == nil || errors.Is(b.err, ErrSlow) {
		return b.data, b.err
	}
	b, _ = c.touch(at, size, false)
	if err := await(interrupted, b.ready); err != nil {
		return nil, err
	}
	return b.data, b.err
}

func await(interrupted, ready <-chan struct{}) error {
	select {
	case <-ready:
		return nil
	case <-interrupted:
	}
	select {
	case <-ready:
		return nil
	case <-time.After(grace):
		return syscall.EINTR
	}
}

// touch is a reader that has come to a place. It returns the block, which may be on its way; or, if it may wait for them,
// small files on their way that this one may be among.
func (c *content) touch(at place, size int64, wait bool) (b *block, pending <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f, ok := c.foretold.Get(at); ok {
		c.foretold.Remove(at)
		c.fetchAhead(f)
	}
	if b, ok := c.kept.Get(at); ok {
		return b, nil
	}
	if b := c.awaited[at]; b != nil {
		return b, nil
	}
	if size > smallFile {
		return c.fetchBlocks(at, size, 1), nil
	}
	for on := range c.batches {
		if wait && on.from < at.path && folderOf(on.from) == folderOf(at.path) {
			return nil, on.done
		}
	}
	return c.fetchSmall(at.path, 0), nil
}

// fetchAhead fetches what a forecast said, unless it is there; mu is held.
func (c *content) fetchAhead(f forecast) {
	if f.size <= smallFile {
		if !c.known(f.from) {
			c.fetchSmall(f.from.path, f.window)
		}
		return
	}
	blocks := (f.size + blockSize - 1) / blockSize
	last := min(f.from.block+f.window/blockSize, blocks)
	at := f.from
	for at.block < last && c.known(at) {
		at.block++
	}
	if at.block == last {
		return
	}
	n := last - at.block
	c.fetchBlocks(at, f.size, n)
	trigger := place{at.path, at.block + min(n, 2) - 1}
	if n == 1 {
		trigger.block = last
	}
	c.foretold.Add(trigger, forecast{place{at.path, last}, f.size, min(2*f.window, maxLarge)})
}

func (c *content) known(at place) bool { return c.kept.Contains(at) || c.awaited[at] != nil }

// expect makes the block at a place one that is on its way; mu is held.
func (c *content) expect(at place) *block {
	b := &block{ready: make(chan struct{})}
	c.awaited[at] = b
	return b
}

// fetchBlocks fetches n blocks of a large file from a place on and returns the first; mu is held.
func (c *content) fetchBlocks(at place, size, n int64) *block {
	begin := at.block * blockSize
	if n == 1 {
		c.foretold.Add(place{at.path, at.block + 1}, forecast{place{at.path, at.block + 1}, size, firstLarge})
	}
	mine := map[place]*block{}
	for i := range n {
		if next := (place{at.path, at.block + i}); !c.known(next) {
			mine[next] = c.expect(next)
		}
	}
	first := mine[at]
	c.fetches.Go(func() {
		ctx, cancel := context.WithTimeoutCause(c.ctx, patience, ErrSlow)
		defer cancel()
		var data []byte // of the block that is under way
		err := io.ErrUnexpectedEOF
		for piece, failed := range c.tree.Read(ctx, Part{Path: at.path, Offset: begin, Length: min(n*blockSize, size-begin)}) {
			if failed != nil {
				err = failed
				break
			}
			for rest := piece.Data; len(rest) > 0; {
				want := min(blockSize, size-at.block*blockSize)
				take := min(want-int64(len(data)), int64(len(rest)))
				if data == nil && take == want {
					data = rest[:take:take] // a piece that is a block need not be copied
				} else {
					data = append(data, rest[:take]...)
				}
				if rest = rest[take:]; int64(len(data)) == want {
					c.deliver(at, mine[at], data)
					delete(mine, at)
					data, at.block = nil, at.block+1
				}
			}
		}
		c.fail(mine, reason(ctx, err))
	})
	return first
}

// fetchSmall fetches a small file, and more bytes of those that come after it, and returns the first; mu is held.
func (c *content) fetchSmall(path string, more int64) *block {
	at := place{path: path}
	first := c.expect(at)
	var on *batch
	if more > 0 {
		on = &batch{path, make(chan struct{})}
		c.batches[on] = true
	}
	c.fetches.Go(func() {
		ctx, cancel := context.WithTimeoutCause(c.ctx, patience, ErrSlow)
		defer cancel()
		mine := map[place]*block{at: first}
		err := io.ErrUnexpectedEOF
		trigger, next := place{}, ""
		for piece, failed := range c.tree.Read(ctx, Part{Path: path, Length: smallFile, More: more}) {
			if failed != nil {
				err = failed
				break
			}
			if piece.Data == nil {
				next = piece.Path
				break
			}
			got := place{path: piece.Path}
			if got != at && trigger.path == "" {
				trigger = got
			}
			c.deliver(got, mine[got], piece.Data)
			delete(mine, got)
		}
		c.fail(mine, reason(ctx, err))
		c.mu.Lock()
		defer c.mu.Unlock()
		if on != nil {
			delete(c.batches, on)
			close(on.done)
		}
		if next == "" {
			return
		}
		then := forecast{from: place{path: next}, window: min(max(2*more, firstSmall), maxSmall)}
		c.foretold.Add(then.from, then)
		if trigger.path != "" {
			c.foretold.Add(trigger, then)
		}
	})
	return first
}

// deliver keeps the bytes of a block, and gives them to those who wait for it, if anybody does.
func (c *content) deliver(at place, b *block, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b == nil {
		if c.known(at) {
			return
		}
		b = &block{ready: make(chan struct{})}
	} else {
		delete(c.awaited, at)
	}
	b.data = data
	close(b.ready)
	c.kept.Add(at, b)
	for c.bytes += int64(len(data)); c.bytes > keptBytes; {
		c.kept.RemoveOldest()
	}
}

// fail tells those who wait for blocks that did not come.
func (c *content) fail(blocks map[place]*block, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for at, b := range blocks {
		delete(c.awaited, at)
		b.err = err
		close(b.ready)
	}
}

// reason is why a call failed: that it was too slow, rather than that its context ended.
func reason(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
