package flow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/flow/memo"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/meta"
)

// FsckStats counts what was verified.
type FsckStats struct {
	Tables, Definitions, Slots, Fragments, Provenance, Runs, Secrets int64
}

// Fsck holds the project's tables, definitions, memo and runs to their invariants and reports each
// violation; what lies below them is lake.Fsck's. With deep, every row is read. The error is for what
// kept it from looking. It may run beside writers.
func (f *Flow) Fsck(ctx context.Context, deep bool, report func(lake.Problem)) (FsckStats, error) {
	k := &fsck{Flow: f, deep: deep, report: report, seen: map[string]bool{}}
	for _, part := range []func(context.Context) error{k.history, k.fragments, k.allRuns, k.allSecrets} {
		if err := part(ctx); err != nil {
			return k.stats, err
		}
	}
	return k.stats, nil
}

type fsck struct {
	*Flow
	deep   bool
	report func(lake.Problem)
	stats  FsckStats
	seen   map[string]bool // commits, entries, provenance records and blobs that were verified
	at     lake.Hash       // commit whose changes are read
}

// first reports whether something has not been verified before.
func (k *fsck) first(what ...string) bool {
	key := strings.Join(what, "\x00")
	was := k.seen[key]
	k.seen[key] = true
	return !was
}

func (k *fsck) problem(reason, where, format string, args ...any) {
	k.report(lake.Problem{Reason: reason, Where: where, Message: fmt.Sprintf(format, args...)})
}

// found reports what is wrong with stored data; any other error ends the check.
func (k *fsck) found(reason, where string, err error) error {
	switch errdef.CodeOf(err) {
	case errdef.OK:
		return nil
	case errdef.DataLoss, errdef.NotFound:
		k.problem(reason, where, "%v", err)
		return nil
	}
	return err
}

// history verifies what each commit of each ref changed. A commit that cannot be read is a finding of
// lake.Fsck's.
func (k *fsck) history(ctx context.Context) error {
	for _, refs := range []func(yield func(lake.Ref, error) bool){k.lake.Branches(ctx), k.lake.Tags(ctx)} {
		for ref, err := range refs {
			if err == nil && !k.seen[ref.Commit.String()] {
				err = k.since(ctx, ref)
			}
			if err := k.found("fsck.history", ref.Name, err); err != nil {
				return err
			}
		}
	}
	return nil
}

func (k *fsck) since(ctx context.Context, ref lake.Ref) error {
	for c, err := range k.lake.Log(ctx, ref.Commit, lake.LogOptions{}) {
		if err != nil {
			return err
		}
		if !k.first(c.ID.String()) {
			continue
		}
		k.at = c.ID
		before := k.lake.Tree(lake.Hash{})
		if len(c.Parents) > 0 {
			parent, err := k.lake.Commit(ctx, c.Parents[0])
			if err != nil && !errors.Is(err, lake.ErrCut) {
				return err
			}
			before = k.lake.Tree(parent.Tree)
		}
		for change, err := range before.Diff(ctx, k.lake.Tree(c.Tree), "") {
			if err != nil {
				return err
			}
			if change.After == nil {
				continue
			}
			if err := k.entry(ctx, change.Key, *change.After); err != nil {
				return err
			}
		}
	}
	return nil
}

// where is a key of the tree that is read, as people type it, and a commit that has what is wrong with it.
func (k *fsck) where(key string) string { return lake.DisplayKey(key) + "@" + k.at.String()[:12] }

func (k *fsck) entry(ctx context.Context, key string, e lake.Entry) error {
	at := e.Location
	if !k.first(key, e.Version, at.Table, at.Object.String(), at.Slots.String(), at.Provenance.String()) {
		return nil
	}
	var err error
	where := k.where(key)
	switch e.Kind {
	case lake.KindTable:
		k.stats.Tables++
		if e.Forgotten == nil {
			err = k.found("fsck.table", where, k.tables.Verify(ctx, e, k.deep))
		}
		if err == nil && at.Provenance.IsZero() {
			k.problem("fsck.provenance", where, "nothing says how version %s came about", e.Version)
		}
	case lake.KindDef:
		err = k.found("fsck.definition", where, k.definition(ctx, key, e))
	}
	if err == nil && !at.Slots.IsZero() {
		err = k.found("fsck.slots", where, k.slots(ctx, key, e))
	}
	return errors.Join(err, k.provenance(ctx, where, at.Provenance))
}

// definition verifies that a definition can be read, with the code it was made from.
func (k *fsck) definition(ctx context.Context, key string, e lake.Entry) error {
	k.stats.Definitions++
	if lake.DisplayKey(key) == rulesName {
		var r Rules
		return k.readDef(ctx, e, &r)
	}
	var d Definition
	if err := k.readDef(ctx, e, &d); err != nil {
		return err
	}
	version, err := d.version()
	if err == nil && version != e.Version {
		k.problem("fsck.definition", k.where(key), "its content is version %s, the entry says %s", version, e.Version)
	}
	if err == nil {
		_, err = k.lake.Get(ctx, lake.TypeRecord, d.Snapshot)
	}
	return err
}

// slots verifies that what an asset's state names is there, and that a table is the sum of its
// fragments, unless it folds them by key.
func (k *fsck) slots(ctx context.Context, key string, e lake.Entry) error {
	all, err := k.readSlots(ctx, e.Location.Slots)
	if err != nil {
		return err
	}
	name := lake.DisplayKey(key)
	table := name[strings.LastIndexByte(name, '.')+1:]
	paths := 0
	for id, s := range all {
		k.stats.Slots++
		if err := k.contents(ctx, fmt.Sprintf("%s, slot %q", k.where(key), id), s.Tables, s.Files); err != nil {
			return err
		}
		if s.table(table) != nil {
			paths++
		}
	}
	if e.Kind != lake.KindTable || e.Location.Data[modeData] == string(manifest.Merge) {
		return nil
	}
	if paths != len(all) {
		k.problem("fsck.slots", k.where(key), "%d of its %d fragments have no table %s", len(all)-paths, len(all), table)
		return nil
	}
	_, sum, err := slotBlobs(table, sortedSlots(all))
	if err == nil && sum.String() != e.Version {
		k.problem("fsck.slots", k.where(key), "its fragments add up to version %s, the entry says %s", sum, e.Version)
	}
	return err
}

// contents verifies the tables and files of one fragment.
func (k *fsck) contents(ctx context.Context, where string, tables []memo.Table, files []memo.File) error {
	for _, t := range tables {
		if !k.first(t.Blob) {
			continue
		}
		if err := k.found("fsck.fragment", where, k.arrow(ctx, t)); err != nil {
			return err
		}
	}
	for _, file := range files {
		if !k.first(file.Ref.Root.String(), file.Ref.Hash.String()) {
			continue
		}
		if err := k.found("fsck.fragment", where, k.lake.CheckFile(ctx, file.Ref, k.deep)); err != nil {
			return err
		}
	}
	return nil
}

// arrow verifies one table of a fragment.
func (k *fsck) arrow(ctx context.Context, t memo.Table) error {
	info, err := k.blobs.Stat(ctx, t.Blob)
	if err != nil {
		return err
	}
	if info.Size != t.Bytes {
		return errdef.Newf(errdef.DataLoss, "run.fragment", "%s has %d bytes, %d were written", t.Blob, info.Size, t.Bytes)
	}
	if !k.deep {
		return nil
	}
	stored, err := blob.OpenReader(ctx, k.blobs, t.Blob) // of the store, not a copy that this host may have
	if err != nil {
		return err
	}
	schema, sum, err := identify(stored)
	if err != nil {
		return errdef.Newf(errdef.DataLoss, "run.fragment", "%s: %w", t.Blob, err)
	}
	if schema != t.Schema || sum != t.Sum {
		return errdef.Newf(errdef.DataLoss, "run.fragment", "%s holds %s, %s was written", t.Blob, sum, t.Sum)
	}
	return nil
}

// provenance verifies a record and those of its inputs, back to the imports.
func (k *fsck) provenance(ctx context.Context, where string, id lake.Hash) error {
	pending := []lake.Hash{id}
	for len(pending) > 0 {
		id := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		if id.IsZero() || !k.first(id.String()) {
			continue
		}
		p, err := memo.GetProvenance(ctx, k.lake, id)
		if err == nil && !p.Snapshot.IsZero() && k.first(p.Snapshot.String()) {
			_, err = k.lake.Get(ctx, lake.TypeRecord, p.Snapshot)
		}
		if err != nil {
			if err := k.found("fsck.provenance", where, err); err != nil {
				return err
			}
			continue
		}
		k.stats.Provenance++
		for _, in := range p.Inputs {
			pending = append(pending, in.Provenance)
		}
	}
	return nil
}

// fragments verifies the memo: what a row names exists.
func (k *fsck) fragments(ctx context.Context) error {
	return k.memo.All(ctx, func(key memo.Key, frag *memo.Fragment, err error) error {
		where := "memo " + string(key)
		if err != nil {
			return k.found("fsck.memo", where, err)
		}
		k.stats.Fragments++
		if frag.Key != key {
			k.problem("fsck.memo", where, "its row is of the key %q", frag.Key)
		}
		if frag.Provenance.IsZero() {
			k.problem("fsck.provenance", where, "nothing says how it came about")
		}
		return errors.Join(k.contents(ctx, where, frag.Tables, frag.Files), k.provenance(ctx, where, frag.Provenance))
	})
}

// allRuns verifies the rows of runs: states that exist, an end unless this server executes it, and a
// commit that is there.
func (k *fsck) allRuns(ctx context.Context) error {
	prefix := k.runs.runKey("")
	for row, err := range meta.Sound(k.rows.Scan(ctx, meta.Prefix(prefix))) {
		if err != nil {
			return fmt.Errorf("scan runs: %w", err)
		}
		k.stats.Runs++
		run, err := decodeRun(row)
		if err == nil && prefix+run.ID != row.Key {
			err = errdef.Newf(errdef.DataLoss, "run.corrupt", "its row is of the run %q", run.ID)
		}
		if err == nil {
			err = k.oneRun(ctx, run)
		}
		if err := k.found("fsck.run", row.Key, err); err != nil {
			return err
		}
	}
	for row, err := range meta.Sound(k.rows.Scan(ctx, meta.Prefix(k.runs.requestKey("")))) {
		if err != nil {
			return fmt.Errorf("scan requests: %w", err)
		}
		if _, err := k.rows.Get(ctx, k.runs.runKey(string(row.Value))); err != nil {
			if err := k.found("fsck.run", row.Key, fmt.Errorf("run %q: %w", row.Value, err)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (k *fsck) oneRun(ctx context.Context, run *Run) error {
	where := "run " + run.ID
	if _, moves := runMoves[run.State]; !moves && !slices.Contains([]RunState{RunSucceeded, RunFailed, RunCanceled}, run.State) {
		k.problem("fsck.run", where, "%q is no state of a run", run.State)
	}
	executes, err := k.executes(ctx, run)
	if err != nil {
		return err
	}
	if !run.State.Final() && !executes {
		k.problem("fsck.run", where, "it is %s, but the server that executed it is gone", run.State)
	}
	if _, err := k.rows.Get(ctx, k.runs.timeKey(run)); err != nil {
		if err := k.found("fsck.run", where, fmt.Errorf("it is in no list: %w", err)); err != nil {
			return err
		}
	}
	if !run.Commit.IsZero() {
		// One that is not found was collected with its branch: had it a row, lake.Fsck would miss it.
		if _, err := k.lake.Commit(ctx, run.Commit); err != nil && errdef.CodeOf(err) != errdef.NotFound {
			return fmt.Errorf("the commit it published: %w", err)
		}
	}
	steps, err := k.runs.steps(ctx, run.ID)
	if err != nil {
		return err
	}
	for _, st := range steps {
		if _, moves := stepMoves[st.State]; !moves && !slices.Contains([]StepState{StepFailed, StepSkipped, StepCanceled}, st.State) {
			k.problem("fsck.run", where, "%q is no state of a step (%s)", st.State, st.Name)
		}
		if run.State.Final() && !st.State.Final() {
			k.problem("fsck.run", where, "step %s is %s, but the run has ended", st.Name, st.State)
		}
		if st.Log != nil {
			if err := k.found("fsck.run", where, k.lake.CheckFile(ctx, *st.Log, k.deep)); err != nil {
				return err
			}
		}
	}
	for e, err := range k.runs.events(ctx, run.ID, 0) {
		if err != nil {
			return err
		}
		if e.Run != run.ID {
			k.problem("fsck.run", where, "event %d is of run %q", e.Seq, e.Run)
		}
	}
	return nil
}

// allSecrets opens every secret of the project: a value that the home's key does not open is lost.
func (k *fsck) allSecrets(ctx context.Context) error {
	all, err := k.secrets.List(ctx)
	if err := k.found("fsck.secret", "secrets", err); err != nil {
		return err
	}
	for _, s := range all {
		k.stats.Secrets++
		_, err := k.secrets.Values(ctx, []string{s.Name})
		if errdef.CodeOf(err) == errdef.FailedPrecondition { // the key is missing, or another one
			k.problem("fsck.secret", s.Name, "%v", err)
			continue
		}
		if err := k.found("fsck.secret", s.Name, err); err != nil {
			return err
		}
	}
	return nil
}
