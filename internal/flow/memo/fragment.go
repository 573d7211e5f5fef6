package memo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/catalog/dataver"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/lease"
)

// Fragment is the immutable result of one invocation.
type Fragment struct {
	Key        Key       `json:"key"`
	Tables     []Table   `json:"tables,omitempty"`
	Files      []File    `json:"files,omitempty"`
	Check      *Verdict  `json:"check,omitempty"`
	Provenance lake.Hash `json:"provenance"`
	Usage      Usage     `json:"usage"`
	Created    time.Time `json:"created"`
}

// Table is one table of a fragment: an Arrow IPC file.
type Table struct {
	Name   string      `json:"name"`
	Blob   string      `json:"blob"`
	Bytes  int64       `json:"bytes"`
	Schema string      `json:"schema"`
	Sum    dataver.Sum `json:"sum"`
}

// File is one file of a fragment; Path is relative to the output folder.
type File struct {
	Path string       `json:"path"`
	Ref  lake.FileRef `json:"ref"`
}

// Verdict is what a check said. Offenders counts the rows that offend, when the check named rows; they
// are the fragment's table "offenders".
type Verdict struct {
	Passed    bool   `json:"passed"`
	Message   string `json:"message,omitempty"`
	Offenders int64  `json:"offenders,omitempty"`
}

// Usage is what making a fragment consumed.
type Usage struct {
	WallSeconds float64 `json:"wall_seconds"`
	CPUSeconds  float64 `json:"cpu_seconds"`
	PeakBytes   int64   `json:"peak_bytes"`
}

// Table returns the fragment's table of that name, or nil.
func (f *Fragment) Table(name string) *Table {
	for i := range f.Tables {
		if f.Tables[i].Name == name {
			return &f.Tables[i]
		}
	}
	return nil
}

// Rows counts the rows of all tables.
func (f *Fragment) Rows() (n int64) {
	for _, t := range f.Tables {
		n += t.Sum.Rows
	}
	return n
}

// Memo is the relation key -> fragment of one project.
type Memo struct {
	rows     meta.Store
	prefix   string
	replaced string // prefix of what other results have replaced
	session  *lease.Session
}

// Open returns the memo whose rows begin with prefix. They are written in the name of the session: what a
// row names may have been collected once that is over.
func Open(rows meta.Store, prefix string, session *lease.Session) *Memo {
	return &Memo{rows: rows, prefix: prefix + "memo/", replaced: prefix + "memo-old/", session: session}
}

// Lookup returns the fragment of key, or nil.
func (m *Memo) Lookup(ctx context.Context, key Key) (*Fragment, error) {
	row, err := m.rows.Get(ctx, m.prefix+string(key))
	if errors.Is(err, meta.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", key, err)
	}
	return m.decode(row)
}

// Remember stores f unless its key has a fragment already, and returns the one that counts and whether
// it is f. What f names must be durable.
func (m *Memo) Remember(ctx context.Context, f *Fragment) (*Fragment, bool, error) {
	b, err := json.Marshal(f)
	if err != nil {
		return nil, false, fmt.Errorf("encode fragment: %w", err)
	}
	key := m.prefix + string(f.Key)
	_, err = m.rows.Txn(ctx, []meta.Condition{m.session.Condition(), meta.Absent(key)}, []meta.Write{meta.Set(key, b)})
	if failed := (*meta.ConditionError)(nil); errors.As(err, &failed) && failed.Condition.Key == key {
		have, err := m.Lookup(ctx, f.Key)
		if err == nil && have == nil { // collected in between: ours counts after all
			return m.Remember(ctx, f)
		}
		return have, false, err
	}
	if err != nil {
		return nil, false, fmt.Errorf("remember %s: %w", f.Key, err)
	}
	return f, true, nil
}

// Replace makes f the result of its key, whatever it had: somebody asked for a new one. What it had is
// kept aside until a collection, for others may be about to publish it.
func (m *Memo) Replace(ctx context.Context, f *Fragment) error {
	b, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("encode fragment: %w", err)
	}
	key := m.prefix + string(f.Key)
	for {
		had, err := m.rows.Get(ctx, key)
		conditions, writes := []meta.Condition{m.session.Condition()}, []meta.Write{meta.Set(key, b)}
		switch {
		case errors.Is(err, meta.ErrNotFound):
			conditions = append(conditions, meta.Absent(key))
		case err != nil:
			return fmt.Errorf("look up %s: %w", f.Key, err)
		default:
			conditions = append(conditions, meta.At(key, had.Version))
			writes = append(writes, meta.Set(fmt.Sprintf("%s%s/%d", m.replaced, f.Key, had.Version), had.Value))
		}
		_, err = m.rows.Txn(ctx, conditions, writes)
		if failed := (*meta.ConditionError)(nil); errors.As(err, &failed) && failed.Condition.Key == key {
			continue // somebody else was faster
		}
		if err != nil {
			return fmt.Errorf("remember %s: %w", f.Key, err)
		}
		return nil
	}
}

// PutAside makes key unknown, so that it is computed again; the row is kept under another key, for people to look at.
func (m *Memo) PutAside(ctx context.Context, key Key) error {
	row, err := m.rows.Get(ctx, m.prefix+string(key))
	if errors.Is(err, meta.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up %s: %w", key, err)
	}
	_, err = m.rows.Txn(ctx, []meta.Condition{m.session.Condition(), meta.At(row.Key, row.Version)},
		[]meta.Write{meta.Set("quarantine/"+row.Key, row.Value), meta.Delete(row.Key)})
	return err
}

// Rows calls visit with every row and its fragment; one that cannot be read is an error.
func (m *Memo) Rows(ctx context.Context, visit func(meta.Row, *Fragment) error) error {
	return m.scan(ctx, m.prefix, visit)
}

// Replaced calls visit with what Replace has kept aside.
func (m *Memo) Replaced(ctx context.Context, visit func(meta.Row, *Fragment) error) error {
	return m.scan(ctx, m.replaced, visit)
}

func (m *Memo) scan(ctx context.Context, prefix string, visit func(meta.Row, *Fragment) error) error {
	for row, err := range m.rows.Scan(ctx, meta.Prefix(prefix)) {
		if err != nil {
			return fmt.Errorf("scan memo: %w", err)
		}
		f, err := m.decode(row)
		if err == nil {
			err = visit(row, f)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// All calls visit with every row's key and its fragment, or why it cannot be decoded. It is for checks: a
// row that is not what was written is left out.
func (m *Memo) All(ctx context.Context, visit func(Key, *Fragment, error) error) error {
	for row, err := range meta.Sound(m.rows.Scan(ctx, meta.Prefix(m.prefix))) {
		if err != nil {
			return fmt.Errorf("scan memo: %w", err)
		}
		f, err := m.decode(row)
		if err := visit(Key(strings.TrimPrefix(row.Key, m.prefix)), f, err); err != nil {
			return err
		}
	}
	return nil
}

func (m *Memo) decode(row meta.Row) (*Fragment, error) {
	var f Fragment
	if err := json.Unmarshal(row.Value, &f); err != nil {
		return nil, errdef.Newf(errdef.DataLoss, "memo.corrupt", "memo row %s: %w", row.Key, err)
	}
	return &f, nil
}
