package lake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/lake/prolly"
	"tarn.dev/tarn/internal/meta"
)

// FsckOptions choose how much is read.
type FsckOptions struct {
	// Deep reads every byte that is stored. Otherwise the content of packs and files is believed when
	// it is where it should be.
	Deep bool
}

// Problem is a violated invariant.
type Problem struct {
	Reason  string `json:"reason"` // stable, dotted: what sort of thing is wrong
	Where   string `json:"where"`  // the row, object or pack
	Message string `json:"message"`
}

// String is the problem in one line.
func (p Problem) String() string { return p.Reason + ": " + p.Where + ": " + p.Message }

// Stats counts what was verified.
type Stats struct {
	Packs   int   `json:"packs"`
	Objects int64 `json:"objects"`
	Bytes   int64 `json:"bytes"`
	// Garbage are blobs that no row names: left by a crash, or about to be named.
	Garbage      int   `json:"garbage"`
	GarbageBytes int64 `json:"garbage_bytes"`

	Branches int   `json:"branches"`
	Tags     int   `json:"tags"`
	Commits  int   `json:"commits"`
	Nodes    int   `json:"nodes"` // of trees and other maps
	Entries  int64 `json:"entries"`
}

// Fsck verifies every invariant of the lake and reports each violation. The error is for what kept it
// from looking, not for what it found. It may run beside writers.
func (l *Lake) Fsck(ctx context.Context, opt FsckOptions, report func(Problem)) (Stats, error) {
	f := &fsck{l: l, opt: opt, report: report, commits: map[Hash]int64{}, objects: map[Hash]bool{}}
	f.trees = prolly.NewChecker(&nodeStore{lake: l}, f.entry)
	f.maps = prolly.NewChecker(&nodeStore{lake: l}, func(context.Context, prolly.Item) error { return nil })
	// Rows and objects come first: a damaged one explains what the history misses.
	for _, part := range []func(context.Context) error{f.database, f.packs, f.refs, f.commitRows, f.rows} {
		if err := part(ctx); err != nil {
			return f.stats, err
		}
	}
	f.stats.Nodes = f.trees.Nodes() + f.maps.Nodes()
	f.stats.Commits = len(f.commits)
	return f.stats, nil
}

type fsck struct {
	l       *Lake
	opt     FsckOptions
	report  func(Problem)
	stats   Stats
	trees   *prolly.Checker
	maps    *prolly.Checker
	commits map[Hash]int64 // generation by id; -1 for one that cannot be read
	objects map[Hash]bool  // seen by entries
	at      Hash           // commit whose tree is read; parents come first, so it is the oldest with what is new in it
}

func (f *fsck) problem(reason, where, format string, args ...any) {
	f.report(Problem{Reason: reason, Where: where, Message: fmt.Sprintf(format, args...)})
}

// found reports what is wrong with stored data; any other error, such as a canceled context or a full
// disk, ends the check.
func (f *fsck) found(reason, where string, err error) error {
	switch errdef.CodeOf(err) {
	case errdef.OK:
		return nil
	case errdef.DataLoss, errdef.NotFound:
		f.problem(reason, where, "%v", err)
		return nil
	}
	return err
}

// database names every row of the store that is not what was written, other projects' too: the rest of
// the check passes them over.
func (f *fsck) database(ctx context.Context) error {
	for d, err := range f.l.rows.Check(ctx) {
		if err != nil {
			return err
		}
		where := d.Key
		if where == "" {
			where = "the metadata database"
		}
		f.problem("fsck.row", where, "%v", d.Err)
	}
	return nil
}

// refs follows every branch, tag and reflog line.
func (f *fsck) refs(ctx context.Context) error {
	for kind, list := range map[string]struct {
		prefix string
		count  *int
	}{"branch": {f.l.branchKey(""), &f.stats.Branches}, "tag": {f.l.tagKey(""), &f.stats.Tags}} {
		for row, err := range meta.Sound(f.l.rows.Scan(ctx, meta.Prefix(list.prefix))) {
			if err != nil {
				return err
			}
			*list.count++
			ref, err := parseRef(strings.TrimPrefix(row.Key, list.prefix), row)
			if err == nil {
				err = CheckRefName(ref.Name)
			}
			if err != nil {
				f.problem("fsck.ref", row.Key, "%v", err)
				continue
			}
			if err := f.history(ctx, ref.Commit, kind+" "+ref.Name); err != nil {
				return err
			}
		}
	}
	_, err := f.l.rows.Get(ctx, f.l.branchKey(MainBranch))
	if err = f.found("fsck.ref", MainBranch, err); err != nil {
		return err
	}
	if err := f.retention(ctx); err != nil {
		return err
	}
	return f.reflog(ctx)
}

// retention checks that what branches keep can be read, and that no commit is there that is noted as gone.
func (f *fsck) retention(ctx context.Context) error {
	if _, err := f.l.Retentions(ctx); err != nil {
		if err := f.found("fsck.retention", f.l.retainKey(""), err); err != nil {
			return err
		}
	}
	cuts, err := f.l.scanCuts(ctx)
	if err != nil {
		return f.found("fsck.retention", f.l.cutKey(""), err)
	}
	for id := range cuts {
		_, err := f.l.rows.Get(ctx, f.l.commitKey(id.String()))
		if err == nil {
			f.problem("fsck.retention", "commit "+id.String(), "it is there, and noted as removed by retention")
		} else if !errors.Is(err, meta.ErrNotFound) {
			return err
		}
	}
	return nil
}

// reflog checks that every move names a commit, and that each branch is where its last move left it.
func (f *fsck) reflog(ctx context.Context) error {
	prefix := f.l.prefix + "reflog/"
	last := map[string]Move{}
	for row, err := range meta.Sound(f.l.rows.Scan(ctx, meta.Prefix(prefix))) {
		if err != nil {
			return err
		}
		parts := meta.SplitKey(strings.TrimPrefix(row.Key, prefix))
		if len(parts) != 2 {
			f.problem("fsck.reflog", row.Key, "the key names no branch and time")
			continue
		}
		m, err := parseMove(row, prefix+meta.Key(parts[0])+"/")
		if err != nil {
			f.problem("fsck.reflog", row.Key, "%v", err)
			continue
		}
		last[parts[0]] = m
		if !m.Commit.IsZero() {
			if err := f.history(ctx, m.Commit, "reflog of "+parts[0]); err != nil {
				return err
			}
		}
	}
	for branch, m := range last {
		ref, err := f.l.Branch(ctx, branch)
		gone := errors.Is(err, ErrBranchNotFound)
		if err != nil && !gone {
			if err := f.found("fsck.ref", branch, err); err != nil {
				return err
			}
			continue
		}
		if gone == m.Commit.IsZero() && (gone || ref.Commit == m.Commit) {
			continue
		}
		for newest, err := range f.l.moves(ctx, branch, time.Time{}, 1) {
			if err := f.found("fsck.reflog", branch, err); err != nil {
				return err
			}
			if err == nil && newest == m { // else the branch is being worked on
				f.problem("fsck.reflog", branch, "its last move is to %s, but it is at %s", m.Commit, ref.Commit)
			}
		}
	}
	return nil
}

// history verifies a commit with all its ancestors.
func (f *fsck) history(ctx context.Context, from Hash, where string) error {
	pending := []Hash{from}
	for len(pending) > 0 {
		id := pending[len(pending)-1]
		if _, ok := f.commits[id]; ok {
			pending = pending[:len(pending)-1]
			continue
		}
		c, err := f.l.Commit(ctx, id)
		if err != nil {
			f.commits[id] = -1
			if err := f.found("fsck.commit", where, err); err != nil {
				return err
			}
			continue
		}
		parentsFirst := false
		for _, p := range c.Kept() {
			if _, ok := f.commits[p]; !ok {
				pending = append(pending, p)
				parentsFirst = true
			}
		}
		if parentsFirst {
			continue
		}
		f.commits[id] = c.Generation
		if err := f.commit(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// commit verifies one commit whose parents have been verified.
func (f *fsck) commit(ctx context.Context, c Commit) error {
	where := "commit " + c.ID.String()
	if HashOf(TypeCommit, encodeCommit(c)) != c.ID {
		f.problem("fsck.commit", where, "its bytes are not canonical")
	}
	want := int64(0)
	for _, p := range c.Kept() {
		want = max(want, f.commits[p]+1)
	}
	if c.Generation < want || c.Generation > want && len(c.Cut) == 0 {
		f.problem("fsck.commit", where, "its generation is %d, not %d", c.Generation, want)
	}
	if _, err := f.l.rows.Get(ctx, f.l.commitKey(c.ID.String())); err != nil {
		if err := f.found("fsck.commit", where, fmt.Errorf("it has no row: %w", err)); err != nil {
			return err
		}
	}
	f.at = c.ID
	return f.found("fsck.tree", where, f.trees.Check(ctx, prolly.Hash(c.Tree)))
}

// entry verifies one item of a tree and that everything its location names is there. What the blob of
// a table says is for the catalog to verify.
func (f *fsck) entry(ctx context.Context, it prolly.Item) error {
	f.stats.Entries++
	key := string(it.Key)
	if _, err := ParseKey(key); err != nil {
		f.problem("fsck.entry", key, "%v", err)
	} else {
		key = DisplayKey(key) + "@" + f.at.String()[:12]
	}
	e, err := f.l.entry(string(it.Key), it.Value)
	if err != nil {
		return f.found("fsck.entry", key, err)
	}
	if e.Forgotten != nil {
		e.Location.Ref = FileRef{} // the rest of it stays
	}
	for typ, h := range map[Type]Hash{TypeDef: e.Location.Object, TypeRecord: e.Location.Provenance} {
		if h.IsZero() || f.objects[h] {
			continue
		}
		f.objects[h] = true
		if _, err := f.l.Get(ctx, typ, h); err != nil {
			if err := f.found("fsck.entry", key, err); err != nil {
				return err
			}
		}
	}
	if err := f.found("fsck.slots", key, f.maps.Check(ctx, prolly.Hash(e.Location.Slots))); err != nil {
		return err
	}
	if root := e.Location.Ref.Root; !root.IsZero() && !f.objects[root] {
		f.objects[root] = true
		return f.found("fsck.file", key, f.l.CheckFile(ctx, e.Location.Ref, f.opt.Deep))
	}
	return nil
}

// commitRows checks that every commit that can be named by its id is there, reachable or not.
func (f *fsck) commitRows(ctx context.Context) error {
	prefix := f.l.commitKey("")
	for row, err := range meta.Sound(f.l.rows.Scan(ctx, meta.Prefix(prefix))) {
		if err != nil {
			return err
		}
		id, err := ParseHash(strings.TrimPrefix(row.Key, prefix))
		if err != nil {
			f.problem("fsck.commit", row.Key, "the key names no commit")
			continue
		}
		if err := f.history(ctx, id, "row "+row.Key); err != nil {
			return err
		}
	}
	return nil
}

// rows checks the small rows: requests, and that tickets belong to sessions that are there.
func (f *fsck) rows(ctx context.Context) error {
	prefix := f.l.prefix + "request/"
	for row, err := range meta.Sound(f.l.rows.Scan(ctx, meta.Prefix(prefix))) {
		if err != nil {
			return err
		}
		var r requestRow
		if err := json.Unmarshal(row.Value, &r); err != nil {
			f.problem("fsck.request", row.Key, "%v", err)
			continue
		}
		if generation, ok := f.commits[r.Commit]; !ok || generation < 0 {
			// The request may be newer than the scan of the commits.
			if err := f.history(ctx, r.Commit, "row "+row.Key); err != nil {
				return err
			}
		}
	}
	for row, err := range meta.Sound(f.l.rows.Scan(ctx, meta.Prefix(f.l.prefix+"queue/"))) {
		if err != nil {
			return err
		}
		session := string(row.Value)
		if !strings.HasPrefix(session, sessionPrefix+"/") {
			f.problem("fsck.ticket", row.Key, "it belongs to %q, which is no session", clip(session))
		}
	}
	return nil
}
