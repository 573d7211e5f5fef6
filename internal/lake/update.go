package lake

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/fault"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/lease"
)

// ErrRequestReused is returned when a request id comes again for something else.
var ErrRequestReused = errdef.New(errdef.InvalidArgument, "lake.request_reused", "the request id was used for something else")

// ErrContended is returned when the head of a branch moved under an update again and again: somebody
// moves it without standing in the queue.
var ErrContended = errdef.New(errdef.Conflict, "lake.branch_contended", "the branch keeps moving")

// ErrReadOnly is returned for a write through a store or Tx that takes none.
var ErrReadOnly = errdef.New(errdef.FailedPrecondition, "lake.read_only", "nothing can be written here")

// maxAttempts bounds how often an update is tried anew. Only a writer outside the queue, such as the
// garbage collector condemning a pack, makes it necessary at all.
const maxAttempts = 16

// Tx is one attempt at an update. It is used by one goroutine, except Batch, and only inside of the
// function it is given to. When the attempt loses, everything done with it is undone and the function
// is called again.
type Tx struct {
	// Head is the commit that the branch names; the new commit is its child.
	Head   Commit
	Branch string

	batch      *Batch
	tree       Tree
	edits      []Edit
	parents    []Commit
	moveTo     *Commit   // an existing commit that becomes the head instead of a new one
	moved      time.Time // of the commit and the branch's move
	why        string    // for the reflog
	message    string    // when the caller gives none
	conditions []meta.Condition
	writes     []meta.Write
}

// Tree is the tree that will be committed, with all changes so far.
func (tx *Tx) Tree(ctx context.Context) (Tree, error) {
	if len(tx.edits) > 0 {
		t, err := tx.tree.Edit(ctx, tx.batch, tx.edits)
		if err != nil {
			return Tree{}, err
		}
		tx.tree, tx.edits = t, nil
	}
	return tx.tree, nil
}

// Put sets the entry at key.
func (tx *Tx) Put(key string, e Entry) { tx.edits = append(tx.edits, Edit{Key: key, Entry: &e}) }

// Delete removes the entry at key; removing an absent one is no error.
func (tx *Tx) Delete(key string) { tx.edits = append(tx.edits, Edit{Key: key}) }

// Spill makes what has been put so far durable, without a name that leads to it, so that a change does not have to fit in
// memory. If the update ends without a commit it is garbage.
func (tx *Tx) Spill(ctx context.Context) error {
	t, err := tx.Tree(ctx)
	if err != nil {
		return err
	}
	if err := tx.batch.Flush(ctx); err != nil {
		return err
	}
	tx.batch.forget()
	tx.tree = tx.batch.l.Tree(t.Root())
	return nil
}

// SetTree replaces the whole tree, changes so far included.
func (tx *Tx) SetTree(t Tree) { tx.tree, tx.edits = t, nil }

// AddParent makes the new commit a merge of c too.
func (tx *Tx) AddParent(c Commit) { tx.parents = append(tx.parents, c) }

// Batch takes the objects that the new commit needs.
func (tx *Tx) Batch() *Batch { return tx.batch }

// Also adds rows to the transaction that makes the commit visible. When one of the conditions does not
// hold, Update returns meta.ErrConditionFailed and nothing has happened.
func (tx *Tx) Also(conditions []meta.Condition, writes []meta.Write) {
	tx.conditions = append(tx.conditions, conditions...)
	tx.writes = append(tx.writes, writes...)
}

// Update moves a branch: it waits for its turn in the branch's queue, calls fn with the current head,
// and makes what fn did visible as one commit in one meta transaction. When it returns a commit, that
// commit is durable. Callers are served in the order in which they came.
//
// fn may be called again on a newer head. When it changes nothing and adds no parent there is no commit
// and the head is returned; rows given to Also are written nevertheless. An error of fn ends the update
// without a trace.
func (l *Lake) Update(ctx context.Context, branch string, info CommitInfo, fn func(ctx context.Context, tx *Tx) error) (Commit, error) {
	if err := info.check(); err != nil {
		return Commit{}, err
	}
	if done, ok, err := l.Answered(ctx, branch, info.RequestID); ok || err != nil {
		return done.Commit, err
	}
	if _, err := l.Branch(ctx, branch); err != nil { // before waiting for a turn on it
		return Commit{}, err
	}
	ticket, release, err := l.turn(ctx, branch)
	if err != nil {
		return Commit{}, err
	}
	c, err := l.attempts(ctx, branch, info, ticket, fn)
	// A commit that is returned with an error stands: only its ticket, which dies with the session
	// anyway, could not be given back.
	return c, errors.Join(err, release(ctx))
}

func (l *Lake) attempts(ctx context.Context, branch string, info CommitInfo, ticket *lease.Ticket, fn func(context.Context, *Tx) error) (Commit, error) {
	var last error
	for range maxAttempts {
		// Here too, because the same request may have been the one before in the queue.
		if done, ok, err := l.Answered(ctx, branch, info.RequestID); ok || err != nil {
			return done.Commit, err
		}
		c, err := l.attempt(ctx, branch, info, ticket, fn)
		var failed *meta.ConditionError
		switch {
		case !errors.As(err, &failed):
			return c, err
		case slices.ContainsFunc(ticket.Conditions(), func(c meta.Condition) bool { return c.Key == failed.Condition.Key }):
			return Commit{}, lease.ErrLost.Errorf("the turn on branch %s was lost, as after a machine's sleep; nothing was changed: %w", branch, err)
		case strings.HasPrefix(failed.Condition.Key, l.commitKey("")):
			return Commit{}, ErrCollected.Errorf("commit %s was garbage collected meanwhile; nothing was changed: %w", strings.TrimPrefix(failed.Condition.Key, l.commitKey("")), err)
		case failed.Condition.Key == l.gravesKey():
			if _, err := l.readGraves(ctx); err != nil {
				return Commit{}, err
			}
		case !l.mayRetry(failed.Condition.Key, branch, info.RequestID):
			return Commit{}, err
		}
		last = err
	}
	return Commit{}, ErrContended.Errorf("branch %s moved %d times under one update: %w", branch, maxAttempts, last)
}

// mayRetry tells the conditions that a second attempt can meet from those of the caller.
func (l *Lake) mayRetry(key, branch, request string) bool {
	_, pack := l.packOfKey(key)
	return pack || key == l.branchKey(branch) || (request != "" && key == l.requestKey(request))
}

// attempt does everything once, on the head as it is now.
func (l *Lake) attempt(ctx context.Context, branch string, info CommitInfo, ticket *lease.Ticket, fn func(context.Context, *Tx) error) (Commit, error) {
	ref, version, err := l.branch(ctx, branch)
	if err != nil {
		return Commit{}, err
	}
	head, err := l.Commit(ctx, ref.Commit)
	if err != nil {
		return Commit{}, err
	}
	batch := l.Begin(ctx)
	defer batch.Discard()
	tx := &Tx{Head: head, Branch: branch, batch: batch, tree: l.Tree(head.Tree), why: "update"}
	if err := fn(ctx, tx); err != nil {
		return Commit{}, err
	}
	tx.moved = after(ref.Time) // not before fn, which may take long: BRANCH@{t} must not change afterwards
	next, err := tx.next(ctx, info)
	if err != nil {
		return Commit{}, err
	}
	if next.ID == head.ID && len(tx.writes) == 0 && len(tx.conditions) == 0 && info.RequestID == "" {
		return head, nil
	}
	if err := l.publishTx(ctx, tx, next, ref, version, info, ticket); err != nil {
		return Commit{}, err
	}
	return next, nil
}

// publishTx makes everything that tx has done durable and visible in one transaction.
func (l *Lake) publishTx(ctx context.Context, tx *Tx, next Commit, ref Ref, version int64, info CommitInfo, ticket *lease.Ticket) error {
	// Sealed also when there is no commit: the caller's rows may name objects that it has put.
	sealed, writes, err := tx.batch.seal(ctx)
	if err != nil {
		return err
	}
	if err := fault.Point("lake.update.after_pack"); err != nil {
		return err
	}
	conditions := append([]meta.Condition{meta.At(l.branchKey(ref.Name), version)}, ticket.Conditions()...)
	conditions = append(conditions, sealed...)
	buried, unearthed := tx.batch.unearth()
	conditions, writes = append(conditions, buried...), append(writes, unearthed...)
	if next.ID != tx.Head.ID {
		move, err := l.moveRows(ref.Name, next, tx.moved, moveRow{Commit: next.ID, Why: tx.why, Author: info.Author, Request: info.RequestID})
		if err != nil {
			return err
		}
		writes = append(writes, move...)
		again, touched := l.nameAgain(tx, next)
		conditions, writes = append(conditions, again...), append(writes, touched...)
	}
	if info.RequestID != "" {
		once, row, err := l.requestRows(info.RequestID, requestRow{Branch: ref.Name, Before: tx.Head.ID, Commit: next.ID, Time: tx.moved})
		if err != nil {
			return err
		}
		conditions, writes = append(conditions, once), append(writes, row)
	}
	conditions = append(conditions, tx.conditions...)
	writes = append(append(writes, tx.writes...), ticket.Releasing())
	if err := fault.Point("lake.update.before_txn"); err != nil {
		return err
	}
	number, err := l.rows.Txn(ctx, conditions, writes)
	if err != nil {
		return err
	}
	if err := fault.Point("lake.update.after_txn"); err != nil {
		return err
	}
	tx.batch.settle(number)
	if len(unearthed) > 0 {
		_, err = l.readGraves(ctx)
	}
	return err
}

// nameAgain asserts and touches the commits, other than the head, that a transaction names. The row of the
// commit that a branch moves to is written anyway.
func (l *Lake) nameAgain(tx *Tx, next Commit) (conditions []meta.Condition, writes []meta.Write) {
	named := map[Hash]bool{tx.Head.ID: true}
	for _, p := range tx.parents {
		if named[p.ID] {
			continue
		}
		named[p.ID] = true
		conditions = append(conditions, meta.Exists(l.commitKey(p.ID.String())))
		if p.ID != next.ID {
			writes = append(writes, l.touch(p.ID))
		}
	}
	return conditions, writes
}

// next is the commit that tx leads to: its head when nothing changed.
func (tx *Tx) next(ctx context.Context, info CommitInfo) (Commit, error) {
	tree, err := tx.Tree(ctx)
	if err != nil {
		return Commit{}, err
	}
	if tx.moveTo != nil && tree.Root() == tx.moveTo.Tree { // else something came on top of the merge
		return *tx.moveTo, nil
	}
	if tree.Root() == tx.Head.Tree && len(tx.parents) == 0 {
		return tx.Head, nil
	}
	if info.Message == "" {
		info.Message = tx.message
	}
	c := newCommit(append([]Commit{tx.Head}, tx.parents...), tree.Root(), info, tx.moved)
	c.ID, err = tx.batch.Put(ctx, TypeCommit, encodeCommit(c))
	return c, err
}

// moveRows let a branch name a commit.
func (l *Lake) moveRows(branch string, c Commit, now time.Time, why moveRow) ([]meta.Write, error) {
	ref, err := json.Marshal(refRow{Commit: c.ID, Time: now})
	if err != nil {
		return nil, err
	}
	return []meta.Write{
		meta.Set(l.branchKey(branch), ref),
		meta.Set(l.moveKey(branch, now), mustJSON(why)),
		meta.Set(l.commitKey(c.ID.String()), nil),
	}, nil
}

// Answer is what an update with a request id has come to.
type Answer struct {
	Before Hash // the head that it found
	Commit Commit
}

// Answered returns the answer to an earlier update with the same request id.
func (l *Lake) Answered(ctx context.Context, branch, request string) (Answer, bool, error) {
	r, ok, err := l.request(ctx, request, didUpdate, branch)
	if !ok || err != nil {
		return Answer{}, false, err
	}
	c, err := l.Commit(ctx, r.Commit)
	return Answer{Before: r.Before, Commit: c}, err == nil, err
}

// request reads what a request has done, if it has; the same id for something else is refused.
func (l *Lake) request(ctx context.Context, request, did, name string) (requestRow, bool, error) {
	if request == "" {
		return requestRow{}, false, nil
	}
	row, err := l.rows.Get(ctx, l.requestKey(request))
	if errors.Is(err, meta.ErrNotFound) {
		return requestRow{}, false, nil
	}
	if err != nil {
		return requestRow{}, false, err
	}
	var r requestRow
	if err := json.Unmarshal(row.Value, &r); err != nil {
		return requestRow{}, false, ErrCorrupt.Errorf("row %s is not that of a request: %w", row.Key, err)
	}
	if r.Branch != name || r.Did != did {
		return requestRow{}, false, ErrRequestReused.Errorf("request id '%s' was used to %s %s, not to %s %s",
			clip(request), cmp.Or(r.Did, "update"), r.Branch, cmp.Or(did, "update"), clip(name))
	}
	return r, true, nil
}

// requestRows let a request be done once.
func (l *Lake) requestRows(request string, done requestRow) (meta.Condition, meta.Write, error) {
	row, err := json.Marshal(done)
	return meta.Absent(l.requestKey(request)), meta.Set(l.requestKey(request), row), err
}
