package lake

import (
	"context"
	"encoding/json"
	"time"

	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/lease"
)

// Alone waits until nobody takes part in the lake whose rows begin with prefix: those who had it open have
// closed it, or their sessions are over. Expired sessions are fenced. waiting is told who is waited for.
func Alone(ctx context.Context, rows meta.Store, prefix string, waiting func(owner string)) error {
	l := &Lake{rows: rows, prefix: prefix}
	watched, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := make(chan struct{}, 1)
	reports := rows.Watch(watched, l.seenPrefix(), -1) // before the look below, so that nothing falls between
	go func() {
		for range reports {
			select {
			case changed <- struct{}{}:
			default: // a look is due already
			}
		}
	}()
	for {
		other, err := l.someone(ctx)
		if other == nil || err != nil {
			return err
		}
		waiting(other.Owner)
		timer := time.NewTimer(max(time.Until(other.Until), time.Millisecond))
		select {
		case <-changed:
		case <-timer.C: // not a poll: its session is over, or it has renewed it
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		timer.Stop()
	}
}

// someone returns one of those who take part; nil when nobody does.
func (l *Lake) someone(ctx context.Context) (*lease.Info, error) {
	sessions := map[string]lease.Info{}
	for info, err := range lease.Sessions(ctx, l.rows, sessionPrefix) {
		if err != nil {
			return nil, err
		}
		sessions[info.Key] = info
	}
	for row, err := range l.rows.Scan(ctx, meta.Prefix(l.seenPrefix())) {
		if err != nil {
			return nil, err
		}
		var seen seenRow
		if err := json.Unmarshal(row.Value, &seen); err != nil {
			return nil, ErrCorrupt.Errorf("row %s is no report of a session: %w", row.Key, err)
		}
		info, there := sessions[seen.Session]
		if !there {
			continue
		}
		if gone, err := lease.Fence(ctx, l.rows, info); !gone || err != nil {
			return &info, err
		}
	}
	return nil, nil
}
