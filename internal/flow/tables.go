package flow

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/catalog"
	"tarn.dev/tarn/internal/catalog/datafile"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/flow/memo"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/query"
)

// Errors of client writes.
var (
	// ErrTableName is a name that no table may have.
	ErrTableName = errdef.New(errdef.InvalidArgument, "table.name", "not a table name")
	// ErrTableMode is a mode that does not exist, or lacks its key.
	ErrTableMode = errdef.New(errdef.InvalidArgument, "table.mode", "no such mode")
	// ErrTableKey is a row key that names no column.
	ErrTableKey = errdef.New(errdef.InvalidArgument, "table.key", "not a row key")
)

// TableMode says what becomes of the rows that are there.
type TableMode string

// The modes of a client's write.
const (
	ReplaceRows TableMode = "replace"
	AppendRows  TableMode = "append"
	MergeRows   TableMode = "merge"
)

// TableWrite is what every write of a client to a table says.
type TableWrite struct {
	Branch string
	Info   lake.CommitInfo
	Dir    string // the caller's project folder; "" for none
	Table  string
	Mode   TableMode // "" replaces
	Key    []string  // the row key; kept as it was declared when empty
}

// TableWritten is what became of a write.
type TableWritten struct {
	Published
	Key    string
	Entry  lake.Entry
	Before int64 // rows that the table had
}

// check refuses a write that cannot be, and fills in what it left open.
func (w *TableWrite) check() error {
	if w.Mode == "" {
		w.Mode = ReplaceRows
	}
	if !slices.Contains([]TableMode{ReplaceRows, AppendRows, MergeRows}, w.Mode) {
		return ErrTableMode.Errorf("there is no mode %q: rows replace, append or merge", w.Mode)
	}
	if strings.Contains(w.Table, "@") {
		return ErrTableName.Errorf("a table cannot be called %q: what comes after @ is a ref. Write to a branch with --into", w.Table)
	}
	if _, err := lake.ParseKey(tableKey(w.Table)); err != nil {
		return err
	}
	return nil
}

// mergeKey is the row key by which rows are merged into prev.
func (w *TableWrite) mergeKey(prev *lake.Entry) ([]string, error) {
	if len(w.Key) > 0 {
		return w.Key, nil
	}
	if prev != nil {
		key, err := catalog.Key(*prev)
		if err != nil || len(key) > 0 {
			return key, err
		}
	}
	return nil, ErrTableMode.Errorf("rows can be merged into %s only by a row key, and none is declared", w.Table).WithNext("--key COLUMN")
}

// layRows writes rows as data files of layout into dir.
type layRows func(ctx context.Context, dir string, layout datafile.Layout) (datafile.Result, error)

// errRelayout says that the head's table is not the one that files were laid out for.
var errRelayout = errors.New("the table changed meanwhile")

// maxLayouts is how often rows are laid out anew for a table whose columns move under the write.
const maxLayouts = 4

// writeTableRows publishes rows as one commit. The rows are laid out before the branch's queue, for the
// table as it is then; when another write changed the table's columns meanwhile, they are laid out again.
func (f *Flow) writeTableRows(ctx context.Context, w TableWrite, lay layRows, prov func() memo.Provenance) (*TableWritten, error) {
	if out, ok, err := f.tableAnswered(ctx, w); ok || err != nil {
		return out, err
	}
	for try := 1; ; try++ {
		out, err := f.tryTableRows(ctx, w, lay, prov)
		if !errors.Is(err, errRelayout) && !errors.Is(err, catalog.ErrMoved) {
			return out, err
		}
		if try == maxLayouts {
			return nil, catalog.ErrMoved.Errorf("%s on %s changed %d times under this write; nothing was written", w.Table, w.Branch, try).WithNext("write again")
		}
	}
}

// tableAnswered is the answer of a write that was done before. It needs no rows, which by now might not
// even be there.
func (f *Flow) tableAnswered(ctx context.Context, w TableWrite) (*TableWritten, bool, error) {
	pub, ok, err := f.answered(ctx, w.Branch, w.Info.RequestID)
	if !ok || err != nil {
		return nil, false, err
	}
	out, err := f.tableWritten(ctx, pub, tableKey(w.Table))
	return out, err == nil, err
}

func (f *Flow) tryTableRows(ctx context.Context, w TableWrite, lay layRows, prov func() memo.Provenance) (*TableWritten, error) {
	key := tableKey(w.Table)
	prev, err := f.writable(ctx, w)
	if err != nil {
		return nil, err
	}
	dir, err := f.tempDir("tables", "w-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	layout, err := f.tables.Layout(ctx, w.Table, prev, prev != nil && w.Mode != ReplaceRows)
	if err != nil {
		return nil, err
	}
	result, err := lay(ctx, dir, layout)
	if err != nil {
		return nil, err
	}
	if len(w.Key) > 0 && (prev == nil || w.Mode != MergeRows) {
		if err := f.checkUnique(ctx, w, dir, result, prev); err != nil {
			return nil, err
		}
	}
	staged := &stagedTable{f: f, w: w, laidFor: prev, written: catalog.Written{Dir: dir, Result: result}}
	pub, err := f.Publish(ctx, Publication{Branch: w.Branch, Info: w.Info, Dir: w.Dir, Change: func(ctx context.Context, tx *lake.Tx) error {
		head, err := entryAt(ctx, f.lake.Tree(tx.Head.Tree), key)
		if err != nil {
			return err
		}
		e, err := staged.onto(ctx, head)
		if err != nil || head.SameIdentity(e) {
			return err
		}
		if e.Location.Provenance, err = memo.PutProvenance(ctx, tx.Batch(), prov()); err != nil {
			return err
		}
		tx.Put(key, *e)
		return nil
	}})
	if err != nil {
		return &TableWritten{Published: pub, Key: key}, err
	}
	return f.tableWritten(ctx, pub, key)
}

// tableWritten reads what a commit made of a table: a request that is answered again gets the same.
func (f *Flow) tableWritten(ctx context.Context, pub Published, key string) (*TableWritten, error) {
	out := &TableWritten{Published: pub, Key: key}
	e, err := entryAt(ctx, f.lake.Tree(pub.Commit.Tree), key)
	if err != nil || e == nil {
		return out, err
	}
	out.Entry, out.Before = *e, e.Location.Rows
	if !pub.Changed || len(pub.Commit.Parents) == 0 {
		return out, nil
	}
	parent, err := f.lake.Commit(ctx, pub.Commit.Parents[0])
	if errors.Is(err, lake.ErrCut) { // a request answered again, after a time
		return out, nil
	}
	if err != nil {
		return out, err
	}
	before, err := entryAt(ctx, f.lake.Tree(parent.Tree), key)
	out.Before = 0
	if before != nil {
		out.Before = before.Location.Rows
	}
	return out, err
}

// writable is the table's entry at the head, nil for a new table; an error when a client may not write it.
func (f *Flow) writable(ctx context.Context, w TableWrite) (*lake.Entry, error) {
	ref, err := f.lake.Branch(ctx, w.Branch)
	if err != nil {
		return nil, err
	}
	commit, err := f.lake.Commit(ctx, ref.Commit)
	if err != nil {
		return nil, err
	}
	t := f.lake.Tree(commit.Tree)
	if err := f.refuseOwned(ctx, t, w.Branch, tableKey(w.Table)); err != nil {
		return nil, err
	}
	return entryAt(ctx, t, tableKey(w.Table))
}

// stagedTable is rows laid out for one version of a table.
type stagedTable struct {
	f       *Flow
	w       TableWrite
	laidFor *lake.Entry
	written catalog.Written

	// The result for one head: checks that have no answer yet make the same change happen twice.
	last   *lake.Entry
	result *lake.Entry
}

// onto is the table's next entry, given the head's.
func (s *stagedTable) onto(ctx context.Context, head *lake.Entry) (*lake.Entry, error) {
	if s.result != nil && sameMetadata(s.last, head) {
		e := *s.result
		return &e, nil
	}
	// The row key of an append was looked for among the rows of laidFor.
	if keyed := len(s.w.Key) > 0 && s.w.Mode == AppendRows; !sameTable(s.laidFor, head) || keyed && !sameMetadata(s.laidFor, head) {
		return nil, errRelayout
	}
	e, err := s.make(ctx, head)
	if err != nil {
		return nil, err
	}
	s.last, s.result = head, e
	copied := *e
	return &copied, nil
}

func sameMetadata(a, b *lake.Entry) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Location.Table == b.Location.Table
}

// sameTable reports whether field ids of one mean the same in the other: metadata of one table lies in
// one folder.
func sameTable(a, b *lake.Entry) bool {
	if a == nil || b == nil {
		return a == b
	}
	folder := func(e *lake.Entry) string {
		parts := strings.SplitN(e.Location.Table, "/", 3)
		return parts[min(1, len(parts)-1)]
	}
	return folder(a) == folder(b)
}

func (s *stagedTable) make(ctx context.Context, head *lake.Entry) (*lake.Entry, error) {
	tables, name := s.f.tables, s.w.Table
	schema, err := datafile.DecodeSchema(s.written.Schema)
	if err != nil {
		return nil, err
	}
	if err := checkColumns(name, s.w.Key, schema); err != nil {
		return nil, err
	}
	var e lake.Entry
	switch {
	case s.w.Mode == ReplaceRows && head != nil && head.Version == s.written.Sum().String() && head.Schema == catalog.Fingerprint(schema):
		e = *head // the rows that are there: nothing to copy
	case s.w.Mode == MergeRows:
		key, err := s.w.mergeKey(head)
		if err != nil {
			return nil, err
		}
		if head == nil {
			e, err = tables.Create(ctx, name, s.written, nil)
		} else {
			e, err = tables.MergeByKey(ctx, name, *head, s.written, key)
		}
		if err != nil {
			return nil, err
		}
	case s.w.Mode == AppendRows && head != nil:
		e, err = tables.Append(ctx, name, *head, s.written)
	default:
		e, err = tables.Replace(ctx, name, head, s.written)
	}
	if err != nil {
		return nil, err
	}
	return &e, s.declareKey(&e, schema)
}

// declareKey keeps the row key that the table has, unless the write brings one, or columns without it.
func (s *stagedTable) declareKey(e *lake.Entry, schema *arrow.Schema) error {
	if len(s.w.Key) > 0 {
		e.Properties = withProperty(e.Properties, catalog.KeyProperty, catalog.EncodeKey(s.w.Key...))
		return nil
	}
	key, err := catalog.Key(*e)
	if err != nil || s.w.Mode != ReplaceRows || checkColumns(s.w.Table, key, schema) == nil {
		return err
	}
	properties := map[string]string{}
	for name, v := range e.Properties {
		if name != catalog.KeyProperty {
			properties[name] = v
		}
	}
	e.Properties = properties
	return nil
}

// checkUnique refuses a row key that does not tell the rows apart, those that an append finds in prev too: no
// merge could use it.
func (f *Flow) checkUnique(ctx context.Context, w TableWrite, dir string, rows datafile.Result, prev *lake.Entry) error {
	schema, err := datafile.DecodeSchema(rows.Schema)
	if err != nil {
		return err
	}
	onto := prev != nil && w.Mode == AppendRows
	if err := checkColumns(w.Table, w.Key, schema); err != nil || len(rows.Files) == 0 && !onto {
		return err
	}
	stored, err := datafile.Stored(schema, rows.IDs)
	if err != nil {
		return err
	}
	scan := &query.ParquetScan{}
	for i, c := range schema.Fields() {
		scan.Columns = append(scan.Columns, query.ColumnOf(rows.IDs[i].ID, c.Name, c.Type, stored.Field(i).Type))
	}
	for _, file := range rows.Files {
		scan.Files = append(scan.Files, filepath.Join(dir, file.Name))
	}
	var columns, texts, nulls []string
	for _, c := range w.Key {
		q := `"` + strings.ReplaceAll(c, `"`, `""`) + `"`
		columns, texts, nulls = append(columns, q), append(texts, "coalesce(CAST("+q+" AS VARCHAR), 'null')"), append(nulls, q+" IS NULL")
	}
	key := strings.Join(columns, ", ")
	from, where, sources := "written", "the new rows", []query.Source{{Name: query.Name{Table: "written"}, Parquet: scan}}
	if onto {
		there, err := f.tables.Schema(ctx, *prev)
		if err != nil {
			return err
		}
		if err := checkColumns(w.Table, w.Key, there); err != nil {
			return err
		}
		src, err := f.source(ctx, query.Name{Table: "there"}, &value{name: w.Table, key: tableKey(w.Table), entry: prev})
		if err != nil {
			return err
		}
		from, where = "(SELECT "+key+" FROM written UNION ALL SELECT "+key+" FROM there)", "the rows that are there and the new ones"
		sources = append(sources, src)
	}
	path, done, err := f.runToArrow(ctx, query.Job{
		SQL: "SELECT concat_ws(', ', " + strings.Join(texts, ", ") + "), count(*) FROM " + from + " GROUP BY " + key +
			" HAVING count(*) > 1 OR " + strings.Join(nulls, " OR ") + " LIMIT 1",
		Sources: sources,
	})
	if err != nil {
		return fmt.Errorf("look for doubles of the key of %s: %w", w.Table, err)
	}
	defer done()
	return eachBatch([]string{path}, func(*arrow.Schema) error { return nil }, func(b arrow.RecordBatch) error {
		if b.NumRows() == 0 {
			return nil
		}
		at := strings.Join(w.Key, ", ") + " = " + b.Column(0).ValueStr(0)
		if n := b.Column(1).ValueStr(0); n != "1" {
			return catalog.ErrKey.Errorf("%s: %s occurs %s times in %s, so it cannot be the row key", w.Table, at, n, where)
		}
		return catalog.ErrKey.Errorf("%s: a row has %s, and a row key is never null", w.Table, at)
	})
}

func checkColumns(table string, key []string, schema *arrow.Schema) error {
	var names []string
	for _, f := range schema.Fields() {
		names = append(names, f.Name)
	}
	for _, column := range key {
		if !slices.Contains(names, column) {
			return ErrTableKey.Errorf("the key column '%s' is not in the rows for %s. %sColumns: %s.", column, table, manifest.DidYouMean(column, names), manifest.List(names))
		}
	}
	return nil
}
