package backup

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"

	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/meta"
)

// rowsAtOnce go into one transaction.
const rowsAtOnce = 1000

// Restore brings a backup's rows and blobs into a store that has none of its own. What an interrupted one brought there is read and
// compared instead. Every byte is checked against its hash before it can be seen.
func (b Backup) Restore(ctx context.Context, from blob.Store, rows meta.Store, open func(project string) (blob.Store, error), progress func(Progress)) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	stores := map[string]blob.Store{}
	shown := Progress{Total: b.Bytes}
	var writes []meta.Write
	flush := func() error {
		if len(writes) == 0 {
			return nil
		}
		_, err := rows.Txn(ctx, nil, writes)
		writes = writes[:0]
		if err != nil {
			return fmt.Errorf("restore rows: %w", err)
		}
		return nil
	}
	counted := Backup{}
	read := func() error {
		for _, name := range b.Projects { // also those without blobs
			var err error
			if stores[name], err = open(name); err != nil {
				return err
			}
		}
		for l, err := range b.read(ctx, from) {
			if err != nil {
				return err
			}
			if l.Blob == "" {
				counted.Rows++
				if writes = append(writes, meta.Set(string(l.Key), l.Value)); len(writes) == rowsAtOnce {
					if err := flush(); err != nil {
						return err
					}
				}
				continue
			}
			into := stores[l.Project]
			if into == nil {
				return ErrDamaged.Errorf("the list of backup %s has the project %.100q, its description does not", b.ID, l.Project)
			}
			counted.Blobs++
			counted.Bytes += l.Size
			shown.Blobs++
			shown.Bytes += l.Size
			g.Go(func() error { return l.restore(ctx, from, into) })
			progress(shown)
		}
		return flush()
	}
	err := read()
	if werr := g.Wait(); werr != nil { // the first cause: ctx has ended by it
		err = werr
	}
	if err != nil {
		return err
	}
	if counted.Rows != b.Rows || counted.Blobs != b.Blobs || counted.Bytes != b.Bytes {
		return ErrDamaged.Errorf("backup %s lists %d rows and %d blobs, and should have %d and %d", b.ID, counted.Rows, counted.Blobs, b.Rows, b.Blobs)
	}
	return nil
}

// restore brings one blob into a project.
func (l line) restore(ctx context.Context, from, into blob.Store) error {
	name := target(l.Project, l.Blob)
	r, err := from.Get(ctx, name, 0, -1)
	if err != nil {
		if errors.Is(err, blob.ErrNotFound) {
			return ErrDamaged.Errorf("%s is missing", name)
		}
		return fmt.Errorf("read %s: %w", name, err)
	}
	defer r.Close()
	v := l.verified(name, r)
	err = into.Put(ctx, l.Blob, v)
	if errors.Is(err, blob.ErrExists) {
		return l.compare(ctx, into)
	}
	if v.bad != nil { // whatever the store made of it
		return v.bad
	}
	if err != nil {
		return fmt.Errorf("restore %s of project %s: %w", l.Blob, l.Project, err)
	}
	return nil
}

// compare reads what an interrupted restore left.
func (l line) compare(ctx context.Context, into blob.Store) error {
	r, err := into.Get(ctx, l.Blob, 0, -1)
	if err != nil {
		return fmt.Errorf("read %s of project %s: %w", l.Blob, l.Project, err)
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, l.verified(l.Blob, r))
	return err
}

func (l line) verified(name string, r io.Reader) *verified {
	return &verified{summed: summed{r: r, hash: blake3.New()}, line: l, name: name}
}

// verified reads a blob and fails at its end, so that nothing of it becomes visible, when it is not what was backed up.
type verified struct {
	summed
	line line
	name string
	bad  error
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.summed.Read(p)
	if errors.Is(err, io.EOF) && (v.size != v.line.Size || hex.EncodeToString(v.hash.Sum(nil)) != v.line.Hash) {
		v.bad = ErrDamaged.Errorf("%s is not what was backed up: its bytes have changed", v.name)
		return n, v.bad
	}
	return n, err
}
