package lake

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/near"
	"tarn.dev/tarn/internal/meta"
)

// ErrNeverThere is returned for a commit at which a branch never was.
var ErrNeverThere = errdef.New(errdef.NotFound, "lake.never_there", "the branch was never there")

// Move is a line of a branch's reflog.
type Move struct {
	Time    time.Time
	Commit  Hash // zero: the branch was deleted
	Why     string
	Author  string
	Request string // id of the request that made it, or empty
}

// moveRow is the row of a move: what the branch named from then on. A zero commit: it was deleted.
type moveRow struct {
	Commit  Hash   `json:"commit"`
	Why     string `json:"why"` // create, update, merge, revert, delete, undelete, retain WHAT, repair
	Author  string `json:"author,omitempty"`
	Request string `json:"request,omitempty"`
}

// The branch's name is one escaped part of the key, because the time follows.
func (l *Lake) reflogPrefix(branch string) string {
	return l.prefix + "reflog/" + meta.Key(branch) + "/"
}

func (l *Lake) moveKey(branch string, t time.Time) string {
	return fmt.Sprintf("%s%016x", l.reflogPrefix(branch), uint64(t.UnixNano()))
}

// after is now, or just behind t if the clock is not past it: the moves of a branch have an order.
func after(t time.Time) time.Time {
	if now := time.Now().UTC(); now.After(t) {
		return now
	}
	return t.Add(1)
}

// Reflog yields the moves of a branch, the newest first, those before its deletion included.
func (l *Lake) Reflog(ctx context.Context, branch string) iter.Seq2[Move, error] {
	return l.moves(ctx, branch, time.Time{}, 0)
}

// moves yields the moves up to a time (zero: all), the newest first.
func (l *Lake) moves(ctx context.Context, branch string, until time.Time, limit int) iter.Seq2[Move, error] {
	prefix := l.reflogPrefix(branch)
	return func(yield func(Move, error) bool) {
		r := meta.Prefix(prefix)
		r.Reverse, r.Limit = true, limit
		if !until.IsZero() {
			r.End = l.moveKey(branch, until.Add(1))
		}
		for row, err := range l.rows.Scan(ctx, r) {
			var m Move
			if err == nil {
				m, err = parseMove(row, prefix)
			}
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

func parseMove(row meta.Row, prefix string) (Move, error) {
	var nanos uint64
	if _, err := fmt.Sscanf(strings.TrimPrefix(row.Key, prefix), "%016x", &nanos); err != nil {
		return Move{}, ErrCorrupt.Errorf("row %s names no time", row.Key)
	}
	var m moveRow
	if err := json.Unmarshal(row.Value, &m); err != nil {
		return Move{}, ErrCorrupt.Errorf("row %s is not a move: %w", row.Key, err)
	}
	return Move{Time: time.Unix(0, int64(nanos)).UTC(), Commit: m.Commit, Why: m.Why, Author: m.Author, Request: m.Request}, nil
}

// UndeleteBranch makes a deleted branch again, where it was when it was deleted, or at another commit where
// its reflog has it. With a request id it is done once.
func (l *Lake) UndeleteBranch(ctx context.Context, name string, at Hash, info CommitInfo) (Ref, error) {
	ref, err := l.changeRef(ctx, info.RequestID, didUndelete, name, func() (Ref, []meta.Condition, []meta.Write, error) {
		commit, err := l.deletedAt(ctx, name, at)
		if err != nil {
			return Ref{}, nil, nil, err
		}
		return l.newBranch(ctx, name, moveRow{Commit: commit, Why: "undelete", Author: info.Author, Request: info.RequestID})
	})
	if err != nil {
		return Ref{}, l.taken(name, err)
	}
	return ref, nil
}

// deletedAt returns the commit at which a branch comes back.
func (l *Lake) deletedAt(ctx context.Context, name string, at Hash) (Hash, error) {
	if err := CheckRefName(name); err != nil {
		return Hash{}, err
	}
	var found Hash
	alive, deleted := false, false
	for m, err := range l.Reflog(ctx, name) {
		switch {
		case err != nil:
			return Hash{}, err
		case m.Commit.IsZero():
			deleted = true
		case !deleted:
			alive = true // a branch that has the name now
		case at.IsZero() || m.Commit == at:
			found = m.Commit
		}
		if !found.IsZero() {
			break
		}
	}
	switch {
	case alive && found.IsZero():
		return Hash{}, ErrRefExists.Errorf("there is a branch '%s', and none of that name was deleted", name)
	case alive:
		return Hash{}, ErrRefExists.Errorf("there is a branch '%s' again", name).
			WithNext(fmt.Sprintf("tarn branch create %s-2 --ref %s   # what the deleted one held, under another name", name, short(found)))
	case !deleted:
		return Hash{}, l.nothingDeleted(ctx, name)
	case found.IsZero():
		return Hash{}, ErrNeverThere.Errorf("branch '%s' was never at commit %s", name, short(at)).
			WithNext("tarn branch log "+name, fmt.Sprintf("tarn branch create %s --ref %s", name, short(at)))
	}
	return found, nil
}

// nothingDeleted words that no branch of that name is remembered.
func (l *Lake) nothingDeleted(ctx context.Context, name string) error {
	var names []string
	for deleted, err := range l.deletedBranches(ctx) {
		if err != nil {
			return err
		}
		names = append(names, deleted)
	}
	text := fmt.Sprintf("no deleted branch '%s' is remembered.", clip(name))
	if meant := near.Nearest(name, names); meant != "" {
		text += " Did you mean " + meant + "?"
	}
	if len(names) > 0 {
		text += " Deleted branches: " + some(names) + "."
	}
	return ErrBranchNotFound.Errorf("%s", text)
}

// deletedBranches yields the names that the reflog has and that are no branches. It reads two rows for each
// name of the reflog, however often the branch moved.
func (l *Lake) deletedBranches(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		r := meta.Prefix(l.prefix + "reflog/")
		r.Limit = 1
		for more := true; more; {
			more = false
			for row, err := range l.rows.Scan(ctx, r) {
				if err != nil {
					yield("", err)
					return
				}
				prefix := row.Key[:strings.LastIndexByte(row.Key, '/')+1]
				r.Start, more = meta.Prefix(prefix).End, true
				name := meta.SplitKey(strings.TrimPrefix(prefix, l.prefix+"reflog/"))[0]
				for m, err := range l.moves(ctx, name, time.Time{}, 1) {
					if (err != nil || m.Commit.IsZero()) && !yield(name, err) {
						return
					}
				}
			}
		}
	}
}
