package turn

import (
	"context"
	"sync"
)

// Lent is a turn that is given back while its holder waits for others, who may need it to go on.
//
//	L1  While somebody waits, it is not held. So who waits for a call holds nothing, at any depth, and something can always go on.
//	L2  Who ends the last wait goes on when it is held again, or over. One takes it at a time: two would wait for each other.
//	L3  When it is over, nothing is held, and nothing waits.
//
// While one still waits, others of the same holder go on without a turn: the holder counts as waiting.
type Lent struct {
	turns  *Turns
	rank   Rank
	claims []Claim
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	waiting int
	done    func()        // gives it back; nil: it is not held
	taking  chan struct{} // closed when somebody who takes it again has it, or not
}

// Lend waits for a turn that can be lent. The end of ctx does not give it back.
func (t *Turns) Lend(ctx context.Context, rank Rank, claims ...Claim) (*Lent, error) {
	done, err := t.Take(ctx, rank, claims...)
	if err != nil {
		return nil, err
	}
	l := &Lent{turns: t, rank: rank, claims: claims, done: done}
	l.rank.Again = true
	l.ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return l, nil
}

// Wait gives the turn back until the wait is over, which back says, once.
func (l *Lent) Wait() (back func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting++
	l.release()
	return sync.OnceFunc(l.back)
}

// Done ends it.
func (l *Lent) Done() {
	l.cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.release()
}

func (l *Lent) release() {
	if l.done != nil {
		l.done()
		l.done = nil
	}
}

func (l *Lent) back() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting--
	for l.waiting == 0 && l.done == nil && l.ctx.Err() == nil {
		if other := l.taking; other != nil {
			l.mu.Unlock()
			<-other
			l.mu.Lock()
			continue
		}
		l.taking = make(chan struct{})
		l.mu.Unlock()
		done, err := l.turns.Take(l.ctx, l.rank, l.claims...)
		l.mu.Lock()
		close(l.taking)
		l.taking = nil
		if err != nil { // it is over
			return
		}
		l.done = done
		if l.waiting > 0 || l.ctx.Err() != nil {
			l.release()
		}
	}
}
