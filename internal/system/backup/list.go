package backup

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/blob"
)

// line is a row, a blob of a project, or the end of a list.
type line struct {
	Key   []byte `json:"k,omitempty"`
	Value []byte `json:"v,omitempty"`

	Project string `json:"p,omitempty"`
	Blob    string `json:"b,omitempty"`
	Size    int64  `json:"n,omitempty"`
	Hash    string `json:"h,omitempty"` // BLAKE3 of its bytes

	End bool `json:"end,omitempty"`
}

// listWriter writes a list: lines of JSON, compressed.
type listWriter struct {
	zip *zstd.Encoder
	to  *json.Encoder
}

func newListWriter(to io.Writer) *listWriter {
	zip, err := zstd.NewWriter(to)
	if err != nil {
		panic(err) // only for wrong options
	}
	return &listWriter{zip, json.NewEncoder(zip)}
}

func (w *listWriter) write(l line) error {
	if err := w.to.Encode(l); err != nil {
		return fmt.Errorf("write the backup's list: %w", err)
	}
	return nil
}

func (w *listWriter) close() error {
	if err := w.write(line{End: true}); err != nil {
		return err
	}
	if err := w.zip.Close(); err != nil {
		return fmt.Errorf("write the backup's list: %w", err)
	}
	return nil
}

// read yields the lines of a backup's list. That it is what was written is known at its end only.
func (b Backup) read(ctx context.Context, from blob.Store) iter.Seq2[line, error] {
	return func(yield func(line, error) bool) {
		r, err := from.Get(ctx, lists+b.ID, 0, -1)
		if err != nil {
			if errors.Is(err, blob.ErrNotFound) {
				err = ErrDamaged.Errorf("the list of backup %s is missing", b.ID)
			}
			yield(line{}, err)
			return
		}
		defer r.Close()
		sum := &summed{r: r, hash: blake3.New()}
		zip, err := zstd.NewReader(sum, zstd.WithDecoderConcurrency(1))
		if err != nil {
			yield(line{}, fmt.Errorf("read the list of backup %s: %w", b.ID, err))
			return
		}
		defer zip.Close()
		for dec := json.NewDecoder(zip); ; {
			var l line
			err := dec.Decode(&l)
			if err == nil && l.End {
				if _, err = io.Copy(io.Discard, sum); err == nil && hex.EncodeToString(sum.hash.Sum(nil)) == b.List {
					return
				}
				if err == nil {
					err = errors.New("it is not what was written")
				}
			}
			if err != nil {
				if sum.err == nil && context.Cause(ctx) == nil {
					err = ErrDamaged.Errorf("the list of backup %s: %w", b.ID, err)
				}
				yield(line{}, err)
				return
			}
			if !yield(l, nil) {
				return
			}
		}
	}
}

// summed hashes what is read through it, and keeps the store's own error.
type summed struct {
	r    io.Reader
	hash hash.Hash
	size int64
	err  error
}

func (s *summed) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.hash.Write(p[:n]) //nolint:errcheck // hashes take everything
	s.size += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}
