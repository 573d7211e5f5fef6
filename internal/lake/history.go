package lake

import (
	"context"
	"errors"
	"fmt"
	"os"
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
	move, err := l.moveRows(MainBranch, root, "create", root.Author, root.Time)
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
	s, err := l.sessions.get(ctx, l.rows)
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

// sessions keeps the session in whose name the lake stands in queues: the one it was given, or one of
// its own, begun when it is first needed and again when it was lost, as after a machine's sleep.
type sessions struct {
	given *lease.Session

	mu  sync.Mutex
	own *lease.Session
}

func (s *sessions) get(ctx context.Context, rows meta.Store) (*lease.Session, error) {
	if s.given != nil {
		return s.given, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.own != nil && s.own.Alive() {
		return s.own, nil
	}
	own, err := lease.Begin(ctx, rows, sessionPrefix, sessionTTL, fmt.Sprintf("lake of process %d", os.Getpid()))
	if err != nil {
		return nil, err
	}
	s.own = own
	return own, nil
}

func (s *sessions) end(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.own == nil {
		return nil
	}
	err := s.own.End(ctx)
	s.own = nil
	return err
}
