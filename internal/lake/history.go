package lake

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/lease"
)

// sessionTTL is how long a crashed process may keep others waiting on a branch.
const sessionTTL = 15 * time.Second

// sessionPrefix is where the rows of all sessions are.
const sessionPrefix = "s"

// openHistory makes the branch main, on a commit without entries, if there is none.
func (l *Lake) openHistory(ctx context.Context) error {
	_, err := l.rows.Get(ctx, l.branchKey(MainBranch))
	if !errors.Is(err, meta.ErrNotFound) {
		return err
	}
	batch := l.Begin(ctx)
	defer batch.Discard()
	root := newCommit(nil, Hash{}, CommitInfo{Author: "tarn", Message: "Begin project"}, time.Now())
	if root.ID, err = batch.Put(ctx, TypeCommit, encodeCommit(root)); err != nil {
		return err
	}
	conditions, writes, err := batch.seal(ctx)
	if err != nil {
		return err
	}
	move, err := l.moveRows(MainBranch, root, root.Time, moveRow{Commit: root.ID, Why: "create", Author: root.Author})
	if err != nil {
		return err
	}
	number, err := l.rows.Txn(ctx, append(conditions, meta.Absent(l.branchKey(MainBranch))), append(writes, move...))
	if errors.Is(err, meta.ErrConditionFailed) {
		_, err = l.rows.Get(ctx, l.branchKey(MainBranch)) // another process made the lake at the same time
		return err
	}
	if err != nil {
		return err
	}
	batch.settle(number)
	return nil
}

// turn waits for the lake's turn on a branch.
func (l *Lake) turn(ctx context.Context, branch string) (*lease.Ticket, func(context.Context) error, error) {
	s, err := l.session(ctx)
	if err != nil {
		return nil, nil, err
	}
	q := lease.NewQueue(l.rows, l.prefix+"queue/"+meta.Key(branch))
	t, err := q.Acquire(ctx, s)
	if err != nil {
		return nil, nil, fmt.Errorf("wait for a turn on branch %s: %w", branch, err)
	}
	return t, t.Release, nil
}

// sessions keeps the session in whose name the lake writes.
type sessions struct {
	mu      sync.Mutex
	current *lease.Session
	given   bool // else the lake's own
}
