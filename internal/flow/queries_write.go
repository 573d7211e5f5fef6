package flow

import (
	"context"
	"errors"
	"fmt"
	"os"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/catalog"
	"tarn.dev/tarn/internal/flow/memo"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/query"
)

// ErrTableExists is a CREATE TABLE of a table that is there.
var ErrTableExists = errdef.New(errdef.AlreadyExists, "table.exists", "the table exists")

// maxReruns is how often a write whose table moved under it runs again outside of the branch's queue. The
// next time it runs inside, where the head cannot move: then others wait, but none starves.
const maxReruns = 2

// queryWrite runs a statement that writes, as one commit.
func (f *Flow) queryWrite(ctx context.Context, r QueryRequest, an query.Analysis) (QueryResult, error) {
	target := an.Write.Target
	switch {
	case target.Ref != "":
		t := target
		t.Ref = ""
		return QueryResult{}, ErrQueryWrite.Errorf("the statement writes to %s: a write goes to a branch that --into names", target).
			WithNext(fmt.Sprintf("tarn query --into %s \"... %s ...\"", target.Ref, t))
	case r.Into == "":
		return QueryResult{}, ErrQueryWrite.Errorf("the statement writes %s, and the request does not say to which branch", target)
	case r.Output.Path != "":
		return QueryResult{}, ErrQueryWrite.Errorf("the statement writes %s: there are no rows for a file", target)
	}
	if _, err := lake.ParseKey(keyOf(target)); err != nil {
		return QueryResult{}, err
	}
	if r.Info.Message == "" {
		r.Info.Message = writeMessage(an)
	}
	if pub, ok, err := f.answered(ctx, r.Into, r.Info.RequestID); ok || err != nil {
		if err != nil {
			return QueryResult{}, err
		}
		return f.queryWritten(ctx, an, pub.Before, pub)
	}
	w := &statement{f: f, r: r, an: an, key: keyOf(target)}
	defer w.discard()
	for try := 0; ; try++ {
		out, err := w.publish(ctx, try >= maxReruns)
		if !errors.Is(err, errRelayout) && !errors.Is(err, catalog.ErrMoved) {
			return out, err
		}
	}
}

func writeMessage(an query.Analysis) string {
	verb := map[query.Kind]string{
		query.Insert: "Insert into", query.Update: "Update", query.Delete: "Delete from", query.Merge: "Merge into", query.CTAS: "Create",
	}[an.Kind]
	return verb + " " + an.Write.Target.String()
}

// statement is a write on its way to a branch.
type statement struct {
	f   *Flow
	r   QueryRequest
	an  query.Analysis
	key string

	base lake.Commit // read where the statement names no other ref
	read []memo.Source
	rows *stagedTable // nil when nothing is to be done
	// refused is why nothing may be done. It is an error of the publish: a request that was answered
	// before, such as a CREATE TABLE, has that answer again.
	refused error
	prev    *lake.Entry // of the target, when rows were made
	dirs    []string
}

func (s *statement) discard() {
	for _, dir := range s.dirs {
		_ = os.RemoveAll(dir) // scratch is emptied at the next start anyway
	}
}

// publish runs the statement on the head and publishes its rows. With inside it is run again in the
// branch's queue if the head moved.
func (s *statement) publish(ctx context.Context, inside bool) (QueryResult, error) {
	f := s.f
	ref, err := f.lake.Branch(ctx, s.r.Into)
	if err != nil {
		return QueryResult{}, err
	}
	head, err := f.lake.Commit(ctx, ref.Commit)
	if err != nil {
		return QueryResult{}, err
	}
	if err := s.run(ctx, head); err != nil {
		return QueryResult{}, err
	}
	pub, err := f.Publish(ctx, Publication{Branch: s.r.Into, Info: s.r.Info, Dir: s.r.Dir, Change: func(ctx context.Context, tx *lake.Tx) error {
		is, err := entryAt(ctx, f.lake.Tree(tx.Head.Tree), s.key)
		if err != nil {
			return err
		}
		if s.moved(is) {
			if !inside {
				return errRelayout
			}
			if err := s.run(ctx, tx.Head); err != nil {
				return err
			}
		}
		return s.put(ctx, tx, is)
	}})
	if err != nil {
		return QueryResult{Kind: s.an.Kind, Table: s.an.Write.Target.String(), Commit: s.base, Written: &TableWritten{Published: pub, Key: s.key}}, err
	}
	return f.queryWritten(ctx, s.an, s.base.ID, pub)
}

// queryWritten is the answer of a write that read base.
func (f *Flow) queryWritten(ctx context.Context, an query.Analysis, base lake.Hash, pub Published) (QueryResult, error) {
	out := QueryResult{Kind: an.Kind, Table: an.Write.Target.String()}
	var err error
	if out.Commit, err = f.lake.Commit(ctx, base); err != nil {
		return out, err
	}
	out.Written, err = f.tableWritten(ctx, pub, keyOf(an.Write.Target))
	return out, err
}

// moved reports whether rows made for prev are not those that the statement would make of is. Rows of an
// INSERT that does not read its own table go on top of whatever is there.
func (s *statement) moved(is *lake.Entry) bool {
	if s.an.Write.Mode == query.Append && !s.readsTarget() {
		return !sameTable(s.prev, is)
	}
	return !is.SameIdentity(s.prev) || !sameTable(s.prev, is)
}

func (s *statement) readsTarget() bool {
	for _, t := range s.an.Tables {
		if keyOf(t.Name) == s.key && t.Name.Ref == "" {
			return true
		}
	}
	return false
}

// run makes the statement's rows, as data files that shall join the table of head.
func (s *statement) run(ctx context.Context, head lake.Commit) error {
	f, w := s.f, s.an.Write
	s.rows, s.refused = nil, nil
	prev, err := entryAt(ctx, f.lake.Tree(head.Tree), s.key)
	if err != nil {
		return err
	}
	s.prev = prev
	snap, err := f.snapshot(ctx, s.r.Ref)
	if err != nil {
		return err
	}
	if s.r.Ref == s.r.Into { // one look at the branch, so that target and sources are of one commit
		snap.commit, snap.others[s.r.Ref] = head, head
	}
	s.base = snap.commit
	skip, err := s.admit(ctx, head, prev)
	if skip || err != nil {
		s.refused = err
		return nil
	}
	mode := ReplaceRows
	if w.Mode == query.Append {
		mode = AppendRows
	}
	// The target is read where it is written, everything else at the ref.
	resolve := query.ResolverFunc(func(ctx context.Context, t query.Reference) (query.Source, error) {
		if keyOf(t.Name) == s.key && t.Name.Ref == "" && w.Mode != query.Create {
			return f.TableSource(ctx, f.lake.Tree(head.Tree), s.r.Into, t.Name, false)
		}
		return snap.Resolve(ctx, t)
	})
	plan, err := f.Engine.Plan(ctx, query.Request{SQL: s.r.SQL, Params: s.r.Params}, resolve)
	if err != nil {
		return err
	}
	s.read = snap.read
	dir, err := f.tempDir("tables", "q-*")
	if err != nil {
		return err
	}
	s.dirs = append(s.dirs, dir)
	name := tableNameOf(w.Target)
	// UPDATE, DELETE and MERGE keep the table's columns as they were declared, as an INSERT does.
	layout, err := f.tables.Layout(ctx, name, prev, prev != nil && w.Mode != query.Create)
	if err != nil {
		return err
	}
	plan.Job.MemoryBytes = s.r.MemoryBytes
	plan.Job.Sinks = []query.Sink{{Kind: query.SinkTable, Path: dir, Table: &layout}}
	result, err := f.Engine.Run(ctx, plan.Job, nil)
	if err != nil {
		return err
	}
	if len(result.Outputs) != 1 || result.Outputs[0].Table == nil {
		return errdef.Newf(errdef.Internal, "query.engine", "the engine wrote no table")
	}
	s.rows = &stagedTable{
		f: f, w: TableWrite{Branch: s.r.Into, Table: name, Mode: mode}, laidFor: prev,
		written: catalog.Written{Dir: dir, Result: *result.Outputs[0].Table},
	}
	return nil
}

// admit says whether the statement may write, and whether there is nothing to write.
func (s *statement) admit(ctx context.Context, head lake.Commit, prev *lake.Entry) (skip bool, err error) {
	w := s.an.Write
	name := tableNameOf(w.Target)
	switch {
	case w.Mode == query.Create && prev != nil && w.IfMissing:
		return true, nil
	case w.Mode == query.Create && prev != nil && !w.OrReplace:
		return false, ErrTableExists.Errorf("there is a table %s on %s", name, s.r.Into).
			WithNext("CREATE OR REPLACE TABLE "+name+" AS ...", "CREATE TABLE IF NOT EXISTS "+name+" AS ...")
	case w.Mode != query.Create && prev == nil:
		names, err := tableNames(ctx, s.f.lake.Tree(head.Tree))
		if err != nil {
			return false, err
		}
		return false, NoTable(name, s.r.Into, names)
	}
	return false, s.f.refuseOwned(ctx, s.f.lake.Tree(head.Tree), s.r.Into, s.key)
}

// put edits the tree with the rows.
func (s *statement) put(ctx context.Context, tx *lake.Tx, is *lake.Entry) error {
	if s.rows == nil {
		return s.refused
	}
	e, err := s.rows.onto(ctx, is)
	if err != nil || is.SameIdentity(e) {
		return err
	}
	e.Location.Provenance, err = memo.PutProvenance(ctx, tx.Batch(), memo.Provenance{
		Kind: memo.ByWrite, Author: s.r.Info.Author, Time: now(), Statement: s.r.SQL, Inputs: s.read,
	})
	if err != nil {
		return err
	}
	tx.Put(s.key, *e)
	return nil
}

func tableNameOf(n query.Name) string {
	n.Ref = ""
	return n.String()
}
