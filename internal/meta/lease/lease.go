// Package lease gives processes sessions, and sessions turns, as rows of a meta store.
//
// A Session is a row with a heart-beat beside it. Its Epoch is the number of the transaction that made
// the row: it grows from session to session and is never reused. Its Condition goes into every
// transaction that the session's work makes. A session that misses its heart-beats may be fenced by
// anybody, which removes the row; from then on its Condition fails, so a process that slept, lost the
// network or only has a wrong clock can change nothing. Clocks decide when a session may be fenced,
// never what a fenced one may do.
//
// A Queue hands out turns, first come first served. A Ticket at its head is a lease: it is exclusive,
// ends with its session, and its Epoch fences whoever had the turn before.
package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/fault"
	"tarn.dev/tarn/internal/base/service"
	"tarn.dev/tarn/internal/meta"
)

// Errors of sessions.
var (
	// ErrEnded says that the session was ended by its own process.
	ErrEnded = errdef.New(errdef.Canceled, "lease.session_ended", "the session has ended")
	// ErrLost says that the session was fenced, or could not renew itself in time.
	ErrLost = errdef.New(errdef.Unavailable, "lease.session_lost", "the session was lost")
)

// identity is the value of a session's row; it never changes.
type identity struct {
	Owner string        `json:"owner"`
	Since time.Time     `json:"since"`
	TTL   time.Duration `json:"ttl_ns"`
}

// beat is the value of the heart-beat row.
type beat struct {
	Until time.Time `json:"until"`
}

// Session is this process's session. All methods are safe for concurrent use.
type Session struct {
	store meta.Store
	key   string
	epoch int64
	ttl   time.Duration
	beats service.Service
	done  chan struct{}

	mu      sync.Mutex
	until   time.Time // what the last heart-beat promised
	cause   error     // why it is over; set once, before done is closed
	tickets map[string]struct{}
}

// Begin makes a session under prefix, for instance "s", that lives until End or until it cannot renew
// itself for ttl. Owner is shown to people. Ctx bounds the call, not the session.
func Begin(ctx context.Context, store meta.Store, prefix string, ttl time.Duration, owner string) (*Session, error) {
	if ttl <= 0 {
		return nil, errdef.Newf(errdef.InvalidArgument, "lease.invalid_ttl", "a session cannot live for %s", ttl)
	}
	now := time.Now()
	s := &Session{
		store: store, key: prefix + "/" + newID(), ttl: ttl, done: make(chan struct{}),
		until: now.Add(ttl), tickets: map[string]struct{}{},
	}
	who, err := json.Marshal(identity{Owner: owner, Since: now, TTL: ttl})
	if err != nil {
		return nil, fmt.Errorf("begin session: %w", err)
	}
	first, err := json.Marshal(beat{s.until})
	if err != nil {
		return nil, fmt.Errorf("begin session: %w", err)
	}
	s.epoch, err = store.Txn(ctx, []meta.Condition{meta.Absent(s.key)},
		[]meta.Write{meta.Set(s.key, who), meta.Set(beatKey(s.key), first)})
	if err != nil {
		return nil, fmt.Errorf("begin session: %w", err)
	}
	s.beats = service.New("session "+owner, s.keepAlive)
	if err := s.beats.Start(context.WithoutCancel(ctx)); err != nil {
		return nil, fmt.Errorf("begin session: %w", err)
	}
	return s, nil
}

// Key is the session's row; what it holds or waits for names it.
func (s *Session) Key() string { return s.key }

// Epoch grows from session to session.
func (s *Session) Epoch() int64 { return s.epoch }

// Condition holds as long as the session has not ended or been fenced.
func (s *Session) Condition() meta.Condition { return meta.At(s.key, s.epoch) }

// Done is closed when the session is over.
func (s *Session) Done() <-chan struct{} { return s.done }

// Alive reports whether the session is not over and its last heart-beat still counts. Only a
// transaction with Condition can be sure.
func (s *Session) Alive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause == nil && time.Now().Before(s.until)
}

// Err is nil while the session lives, then ErrEnded or ErrLost.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause
}

// End ends the session and gives back every ticket it has. Ending twice is no error.
func (s *Session) End(ctx context.Context) error {
	s.over(ErrEnded)
	if err := s.beats.Stop(); err != nil && !errors.Is(err, ErrLost) {
		return err
	}
	writes := []meta.Write{meta.Delete(s.key), meta.Delete(beatKey(s.key))}
	s.mu.Lock()
	for key := range s.tickets {
		writes = append(writes, meta.Delete(key))
	}
	s.mu.Unlock()
	if _, err := s.store.Txn(ctx, nil, writes); err != nil {
		return fmt.Errorf("end session: %w", err)
	}
	return nil
}

// over records why the session is over, the first time.
func (s *Session) over(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause == nil {
		s.cause = cause
		close(s.done)
	}
}

// keepAlive renews the session three times per ttl, and more often after a failure.
func (s *Session) keepAlive(ctx context.Context, ready func()) error {
	ready()
	wait := s.ttl / 3
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
		}
		err := s.renew(ctx)
		switch {
		case err == nil:
			wait = s.ttl / 3
		case errors.Is(err, meta.ErrConditionFailed):
			return s.lose(ErrLost.Errorf("the session was fenced: %w", err))
		case !s.Alive():
			return s.lose(ErrLost.Errorf("the session was not renewed for %s: %w", s.ttl, err))
		default:
			wait = s.ttl / 10
		}
		timer.Reset(wait)
	}
}

func (s *Session) lose(why error) error {
	s.over(why)
	return why
}

func (s *Session) renew(ctx context.Context) error {
	s.mu.Lock()
	deadline := s.until
	s.mu.Unlock()
	until := time.Now().Add(s.ttl) // taken before the write: what others see is never earlier
	value, err := json.Marshal(beat{until})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithDeadlineCause(ctx, deadline, ErrLost)
	defer cancel()
	if _, err := s.store.Txn(ctx, []meta.Condition{s.Condition()}, []meta.Write{meta.Set(beatKey(s.key), value)}); err != nil {
		return err
	}
	if err := fault.Point("lease.after_renew"); err != nil {
		return err
	}
	s.mu.Lock()
	s.until = until
	s.mu.Unlock()
	return nil
}

// Info describes a session of any process.
type Info struct {
	Key   string
	Owner string
	Epoch int64
	Since time.Time
	Until time.Time // when it may be fenced

	beatVersion int64
}

// Expired reports whether the session may be fenced.
func (i Info) Expired() bool { return !time.Now().Before(i.Until) }

// Sessions yields the sessions under prefix.
func Sessions(ctx context.Context, store meta.Store, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		var pending meta.Row // a session's row comes right before its heart-beat
		for row, err := range store.Scan(ctx, meta.Prefix(prefix+"/")) {
			if err != nil {
				yield(Info{}, err)
				return
			}
			if row.Key != beatKey(pending.Key) {
				pending = row
				continue
			}
			info, err := decode(pending, row)
			if !yield(info, err) || err != nil {
				return
			}
		}
	}
}

// Fence ends a session that has expired. It reports whether the session is gone now; false says that
// it renewed itself meanwhile.
func Fence(ctx context.Context, store meta.Store, i Info) (bool, error) {
	if !i.Expired() {
		return false, nil
	}
	return i.fence(ctx, store)
}

// FenceExpired ends the sessions under prefix that have expired, and returns the keys of the others.
func FenceExpired(ctx context.Context, store meta.Store, prefix string) (alive []string, err error) {
	for info, err := range Sessions(ctx, store, prefix) {
		if err != nil {
			return nil, fmt.Errorf("fence sessions: %w", err)
		}
		gone, err := Fence(ctx, store, info)
		if err != nil {
			return nil, err
		}
		if !gone {
			alive = append(alive, info.Key)
		}
	}
	return alive, nil
}

// FenceGone ends the session with a key, expired or not. Only who knows that its process is gone may call
// it: the server that has locked the home in which that process left the key.
func FenceGone(ctx context.Context, store meta.Store, key string) error {
	for {
		info, err := load(ctx, store, key)
		if errors.Is(err, meta.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		// A last heart-beat may still be under way from a process that is gone.
		if gone, err := info.fence(ctx, store); gone || err != nil {
			return err
		}
	}
}

func (i Info) fence(ctx context.Context, store meta.Store, also ...meta.Write) (bool, error) {
	_, err := store.Txn(ctx,
		[]meta.Condition{meta.At(i.Key, i.Epoch), meta.At(beatKey(i.Key), i.beatVersion)},
		append(also, meta.Delete(i.Key), meta.Delete(beatKey(i.Key))))
	switch {
	case err == nil:
		return true, nil
	case !errors.Is(err, meta.ErrConditionFailed):
		return false, fmt.Errorf("fence session %s: %w", i.Owner, err)
	}
	_, err = store.Get(ctx, i.Key)
	if errors.Is(err, meta.ErrNotFound) {
		return true, nil
	}
	return false, err
}

// load reads a session; meta.ErrNotFound says that it is over.
func load(ctx context.Context, store meta.Store, key string) (Info, error) {
	var rows []meta.Row
	for row, err := range store.Scan(ctx, meta.Range{Start: key, End: beatKey(key) + "\x00"}) {
		if err != nil {
			return Info{}, err
		}
		rows = append(rows, row)
	}
	if len(rows) != 2 {
		return Info{}, meta.ErrNotFound.Errorf("no session %s", key)
	}
	return decode(rows[0], rows[1])
}

func decode(row, beatRow meta.Row) (Info, error) {
	var id identity
	var b beat
	if err := errors.Join(json.Unmarshal(row.Value, &id), json.Unmarshal(beatRow.Value, &b)); err != nil {
		return Info{}, errdef.Newf(errdef.DataLoss, "lease.corrupt", "session %s is not readable: %w", row.Key, err)
	}
	return Info{
		Key: row.Key, Owner: id.Owner, Epoch: row.Version, Since: id.Since, Until: b.Until,
		beatVersion: beatRow.Version,
	}, nil
}

func beatKey(session string) string { return session + "/beat" }
