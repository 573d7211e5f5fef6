package lake

import (
	"context"
	"encoding/binary"
	"io"
	"sync"

	"github.com/zeebo/blake3"
)

// MaxInline is the longest content that is kept in the FileRef itself.
const MaxInline = 256

// FileRef is where a file's content is. Contents up to MaxInline are Inline and have no Root.
type FileRef struct {
	// Hash identifies the content: its plain BLAKE3, what b3sum prints. It does not depend on how the
	// content was cut.
	Hash Hash  `json:"hash"`
	Size int64 `json:"size"`
	// Root is a chunk if Height is 0, else a file node of that height.
	Root   Hash   `json:"root,omitzero"`
	Height uint8  `json:"height,omitempty"`
	Inline []byte `json:"inline,omitempty"`
}

// chunkBuffers are maxChunk long.
var chunkBuffers = sync.Pool{New: func() any { return new([maxChunk]byte) }}

// PutFile stores everything r yields, cut by content. Its memory does not depend on the file's size.
func (b *Batch) PutFile(ctx context.Context, r io.Reader) (FileRef, error) {
	cut := chunkers.Get().(*chunker)
	defer chunkers.Put(cut)
	*cut = chunker{r: r, rest: cut.rest}
	defer func() { cut.r = nil }()

	buffer := chunkBuffers.Get().(*[maxChunk]byte)
	n, err := cut.next(buffer[:])
	if err != nil {
		chunkBuffers.Put(buffer)
		return FileRef{}, err
	}
	if !cut.done() {
		return b.putChunks(ctx, cut, buffer, n)
	}
	defer chunkBuffers.Put(buffer)
	data := buffer[:n]
	ref := FileRef{Hash: blake3.Sum256(data), Size: int64(n)}
	if n <= MaxInline {
		ref.Inline = append([]byte(nil), data...)
		return ref, nil
	}
	ref.Root, err = b.Put(ctx, TypeChunk, data)
	return ref, err
}

var chunkers = sync.Pool{New: func() any { return new(chunker) }}

// chunkPut is a chunk on its way into a pack.
type chunkPut struct {
	done chan struct{}
	size int
	hash Hash
	err  error
}

// putChunks stores a file of several chunks. One goroutine reads, cuts and hashes the whole; the chunks
// are hashed, compressed and packed by others, and listed in order.
func (b *Batch) putChunks(ctx context.Context, cut *chunker, buffer *[maxChunk]byte, n int) (_ FileRef, err error) {
	whole := blake3.New()
	tree := fileTree{batch: b}
	ref := FileRef{}
	var pending []*chunkPut
	list := func() error { // the oldest chunk
		p := pending[0]
		pending = pending[1:]
		<-p.done
		if p.err != nil {
			return p.err
		}
		return tree.add(ctx, 0, fileChild{p.hash, int64(p.size)})
	}
	defer func() {
		for _, p := range pending { // after an error: they use buffers and the batch
			<-p.done
		}
	}()
	for n > 0 {
		_, _ = whole.Write(buffer[:n]) // never fails
		ref.Size += int64(n)
		p := &chunkPut{done: make(chan struct{}), size: n}
		pending = append(pending, p)
		b.chunks <- struct{}{}
		go func(buffer *[maxChunk]byte) {
			defer func() { <-b.chunks; chunkBuffers.Put(buffer); close(p.done) }()
			p.hash, p.err = b.Put(ctx, TypeChunk, buffer[:p.size])
		}(buffer)
		if len(pending) > cap(b.chunks) {
			if err := list(); err != nil {
				return FileRef{}, err
			}
		}
		buffer = chunkBuffers.Get().(*[maxChunk]byte)
		if n, err = cut.next(buffer[:]); err != nil {
			chunkBuffers.Put(buffer)
			return FileRef{}, err
		}
	}
	chunkBuffers.Put(buffer)
	for len(pending) > 0 {
		if err := list(); err != nil {
			return FileRef{}, err
		}
	}
	whole.Sum(ref.Hash[:0])
	ref.Root, ref.Height, err = tree.finish(ctx)
	return ref, err
}

// The file node format, version 1: docs/formats/file.md.
const (
	fileNodeMagic  = "TFN1"
	fileNodeHeader = len(fileNodeMagic) + 1
	fileChildSize  = HashSize + 8

	// A node ends where a child's hash says so, so that an insertion near the begin of a file rewrites
	// one node, not all. The minimum makes every level shrink, whatever the hashes are.
	minFanout  = 64
	maxFanout  = 1024
	fanoutMask = 0xff // of the hash's last byte: one child in 256 ends a node

	maxHeight = 8 // 64^8 chunks
)

type fileChild struct {
	hash Hash
	size int64 // of the content below
}

func encodeFileNode(height uint8, children []fileChild) []byte {
	data := make([]byte, 0, fileNodeHeader+len(children)*fileChildSize)
	data = append(data, fileNodeMagic...)
	data = append(data, height)
	for _, c := range children {
		data = append(data, c.hash[:]...)
		data = binary.BigEndian.AppendUint64(data, uint64(c.size))
	}
	return data
}

// decodeFileNode reads a node that must be of that height and cover size bytes.
func decodeFileNode(data []byte, height uint8, size int64) ([]fileChild, error) {
	body := len(data) - fileNodeHeader
	if body <= 0 || string(data[:len(fileNodeMagic)]) != fileNodeMagic || body%fileChildSize != 0 || body/fileChildSize > maxFanout {
		return nil, ErrCorrupt.Errorf("not a file node")
	}
	if data[len(fileNodeMagic)] != height {
		return nil, ErrCorrupt.Errorf("file node has height %d, want %d", data[len(fileNodeMagic)], height)
	}
	children := make([]fileChild, 0, body/fileChildSize)
	left := size
	for b := data[fileNodeHeader:]; len(b) > 0; b = b[fileChildSize:] {
		c := fileChild{Hash(b[:HashSize]), int64(binary.BigEndian.Uint64(b[HashSize:]))}
		if c.size <= 0 || c.size > left {
			return nil, ErrCorrupt.Errorf("file node lists a child of %d bytes where %d are left", c.size, left)
		}
		left -= c.size
		children = append(children, c)
	}
	if left != 0 {
		return nil, ErrCorrupt.Errorf("file node covers %d bytes, want %d", size-left, size)
	}
	return children, nil
}

// fileTree builds the nodes over a file's chunks; levels[0] are chunks without a node yet.
type fileTree struct {
	batch  *Batch
	levels [][]fileChild
}

func (t *fileTree) add(ctx context.Context, level int, c fileChild) error {
	if level == len(t.levels) {
		t.levels = append(t.levels, nil)
	}
	t.levels[level] = append(t.levels[level], c)
	n := len(t.levels[level])
	if n == maxFanout || n >= minFanout && c.hash[HashSize-1]&fanoutMask == 0 {
		return t.close(ctx, level)
	}
	return nil
}

// close makes a node of what level holds.
func (t *fileTree) close(ctx context.Context, level int) error {
	children := t.levels[level]
	var size int64
	for _, c := range children {
		size += c.size
	}
	h, err := t.batch.Put(ctx, TypeFileNode, encodeFileNode(uint8(level+1), children))
	if err != nil {
		return err
	}
	t.levels[level] = children[:0]
	return t.add(ctx, level+1, fileChild{h, size})
}

// finish closes all levels and returns the only node of the highest one.
func (t *fileTree) finish(ctx context.Context) (Hash, uint8, error) {
	for level := 0; ; level++ {
		top := level == len(t.levels)-1
		if top && len(t.levels[level]) == 1 {
			return t.levels[level][0].hash, uint8(level), nil
		}
		if len(t.levels[level]) > 0 {
			if err := t.close(ctx, level); err != nil {
				return Hash{}, 0, err
			}
		}
	}
}
