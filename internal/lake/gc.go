package lake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/fault"
	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/lease"
)

// CollectOptions say what a collection may take.
type CollectOptions struct {
	// Keep is for how long a commit that no ref reaches any more can still be named, as after the removal
	// of its branch.
	Keep time.Duration
	// HeadOnly, if any, tells the branches that keep their own commits, but not what the retention of
	// another branch releases of the history below.
	HeadOnly func(branch string) bool
	// DryRun finds out what would go, and changes nothing.
	DryRun bool
	// Holder tells what the layers above keep; nil if there are none.
	Holder Holder
	// Progress, if any, is told in words what goes on.
	Progress func(string)
}

// Collected is what a collection took, or would take.
type Collected struct {
	Commits   int   `json:"commits"`   // rows of commits that no ref reached
	Rows      int   `json:"rows"`      // reflog lines, requests and rows of the holder
	Packs     int   `json:"packs"`     // deleted
	Rewritten int   `json:"rewritten"` // of these: some of its objects were copied
	Blobs     int   `json:"blobs"`     // others that nothing led to
	Bytes     int64 `json:"bytes"`     // freed
}

// requestAge is how long a request can be sent again.
const requestAge = 30 * 24 * time.Hour

// rowsAtOnce bounds a transaction of the collector.
const rowsAtOnce = 256

// Collect frees what nothing leads to, beside readers and writers: docs/design/garbage.md. It waits for
// another collection, and for operations that are under way; whatever ends it early, the next one goes
// on. The caller must not be inside of an operation itself.
func (l *Lake) Collect(ctx context.Context, opt CollectOptions) (Collected, error) {
	return l.run(ctx, &collection{opt: opt})
}

func (l *Lake) run(ctx context.Context, c *collection) (Collected, error) {
	c.l, c.now, c.chosen, c.unnamed = l, time.Now(), map[Hash]packInfo{}, map[string]int64{}
	s, err := l.session(ctx)
	if err != nil {
		return Collected{}, err
	}
	if c.opt.DryRun {
		err := c.choose(ctx)
		return c.got, err
	}
	if c.turn, err = takeTurn(ctx, l.rows, l.prefix, s, func(what string) { c.say("%s", what) }); err != nil {
		return Collected{}, err
	}
	if err = c.collect(ctx); err == nil {
		err = c.txn(ctx, nil, []meta.Write{meta.Set(l.collectedKey(), mustJSON(collectedRow{Ended: time.Now()}))})
	}
	return c.got, errors.Join(err, c.turn.Release(ctx))
}

// Undisturbed waits until no collection is under way in the lake whose rows begin with prefix, and keeps
// others from beginning until release: for those who look at all rows and blobs, and would miss what goes
// in between. It is in the name of s, and need not open the lake. If there is somebody to wait for, waiting is
// told in words.
func Undisturbed(ctx context.Context, rows meta.Store, prefix string, s *lease.Session, waiting func(string)) (release func(context.Context) error, err error) {
	turn, err := takeTurn(ctx, rows, prefix, s, waiting)
	if err != nil {
		return nil, err
	}
	return turn.Release, nil
}

func takeTurn(ctx context.Context, rows meta.Store, prefix string, s *lease.Session, waiting func(string)) (*lease.Ticket, error) {
	turns := lease.NewQueue(rows, TurnPrefix(prefix))
	if holder, _, err := turns.Holder(ctx); err == nil && holder != nil { // for people: who has it next is not known
		waiting("waiting for a collection, backup or check of the project that is under way in " + holder.Owner)
	}
	turn, err := turns.Acquire(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("wait for a collection, backup or check that is under way: %w", err)
	}
	return turn, nil
}

// Undisturbed keeps collections of this lake from beginning.
func (l *Lake) Undisturbed(ctx context.Context, waiting func(string)) (release func(context.Context) error, err error) {
	s, err := l.session(ctx)
	if err != nil {
		return nil, err
	}
	return Undisturbed(ctx, l.rows, l.prefix, s, waiting)
}

// TurnPrefix is where the collectors of a lake queue whose rows begin with prefix.
func TurnPrefix(prefix string) string { return strings.TrimSuffix(prefix, "/") + "/gc/turn" }

// collectedRow is that of the last whole collection.
type collectedRow struct {
	Ended time.Time `json:"ended"`
}

func (l *Lake) collectedKey() string { return l.prefix + "gc/last" }

// Collected returns when the last whole collection ended; zero if there was none.
func (l *Lake) Collected(ctx context.Context) (time.Time, error) {
	row, err := l.rows.Get(ctx, l.collectedKey())
	if errors.Is(err, meta.ErrNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	var last collectedRow
	if err := json.Unmarshal(row.Value, &last); err != nil {
		return time.Time{}, ErrCorrupt.Errorf("row %s: %w", row.Key, err)
	}
	return last.Ended, nil
}

// collection is one pass of the collector.
type collection struct {
	l    *Lake
	opt  CollectOptions
	now  time.Time
	turn *lease.Ticket // nil in a dry run
	got  Collected

	gone    map[Hash]int64    // commits that a dry run leaves where they are
	chosen  map[Hash]packInfo // packs that are mostly dead
	garbage []blob.Info       // blobs of the holder that were not reached before the epoch
	unnamed map[string]int64  // sizes of packs and segments without a row before the epoch

	bury       []Tombstone // to be written
	forgot     *Forgotten  // what came of it; nil if nothing was asked for
	forgetting bool        // whatever is not reached must go, from whatever pack
	damaged    error       // of packs that stay
}

func (c *collection) say(format string, args ...any) {
	if c.opt.Progress != nil {
		c.opt.Progress(fmt.Sprintf(format, args...))
	}
}

// txn is how the collector changes rows: as long as it has its turn.
func (c *collection) txn(ctx context.Context, conditions []meta.Condition, writes []meta.Write) error {
	if c.turn == nil {
		return nil // a dry run
	}
	_, err := c.l.rows.Txn(ctx, append(c.turn.Conditions(), conditions...), writes)
	var failed *meta.ConditionError
	if errors.As(err, &failed) && slices.ContainsFunc(c.turn.Conditions(), func(t meta.Condition) bool { return t.Key == failed.Condition.Key }) {
		return lease.ErrLost.Errorf("the collection lost its turn, as after a machine's sleep: %w", err)
	}
	return err
}

// collect is a whole collection, in the order of docs/design/garbage.md.
func (c *collection) collect(ctx context.Context) error {
	if err := c.choose(ctx); err != nil {
		return err
	}
	if err := c.condemn(ctx); err != nil {
		return err
	}
	if len(c.chosen)+len(c.garbage)+len(c.unnamed) == 0 && !c.forgetting {
		return nil
	}
	if err := c.await(ctx); err != nil {
		return err
	}
	if err := fault.Point("lake.gc.after_wait"); err != nil {
		return err
	}
	c.say("marking again")
	m, err := c.mark(ctx, nil)
	if err != nil {
		return err
	}
	if err := c.sweep(ctx, m); err != nil || !c.forgetting {
		return err
	}
	return c.forgotten(ctx, m)
}

// choose takes roots away, marks, and finds what is worth freeing.
func (c *collection) choose(ctx context.Context) error {
	if err := c.removeRoots(ctx); err != nil {
		return err
	}
	if err := fault.Point("lake.gc.after_roots"); err != nil {
		return err
	}
	if err := c.buryAll(ctx); err != nil {
		return err
	}
	c.say("marking")
	m, err := c.mark(ctx, func(ctx context.Context, conditions []meta.Condition, writes []meta.Write) error {
		c.got.Rows += len(writes)
		return c.txn(ctx, conditions, writes)
	})
	if err != nil {
		return err
	}
	if err := c.replace(ctx, m); err != nil {
		return err
	}
	c.forgetting = len(m.Forgotten()) > 0
	return errors.Join(c.choosePacks(ctx, m), c.chooseBlobs(ctx, m), c.findUnnamed(ctx))
}

// mark marks what the rows of commits, and the holder's rows, lead to.
func (c *collection) mark(ctx context.Context, remove Remover) (*Mark, error) {
	if err := c.l.refreshNow(ctx); err != nil {
		return nil, err
	}
	g, err := c.l.readGraves(ctx)
	if err != nil {
		return nil, err
	}
	m := c.l.newMark(c.opt.Holder, g)
	prefix := c.l.commitKey("")
	for row, err := range c.l.rows.Scan(ctx, meta.Prefix(prefix)) {
		if err != nil {
			return nil, err
		}
		id, err := ParseHash(strings.TrimPrefix(row.Key, prefix))
		if err != nil {
			return nil, ErrCorrupt.Errorf("row %s names no commit", row.Key).WithNext("tarn fsck")
		}
		if _, gone := c.gone[id]; gone {
			continue
		}
		if err := m.commit(ctx, id); err != nil {
			return nil, err
		}
	}
	if c.opt.Holder == nil {
		return m, nil
	}
	return m, c.opt.Holder.Rows(ctx, m, remove)
}

// choosePacks finds packs that are mostly dead.
func (c *collection) choosePacks(ctx context.Context, m *Mark) error {
	packs, _, err := c.l.scanPacks(ctx)
	if err != nil {
		return err
	}
	c.l.index.mu.RLock()
	damaged := maps.Clone(c.l.index.damaged)
	c.l.index.mu.RUnlock()
	for name, info := range packs {
		_, unreadable := damaged[name]
		if unreadable || info.State == packLive && !c.leaves(m, name, info.packRow) {
			continue
		}
		c.chosen[name] = info
		if c.turn == nil {
			live := m.liveBytes(name)
			c.got.Packs++
			c.got.Bytes += info.Size - live
			if live > 0 {
				c.got.Rewritten++
			}
		}
	}
	return nil
}

// leaves reports whether a pack is written again without what is not reached in it.
func (c *collection) leaves(m *Mark, name Hash, row packRow) bool {
	if c.forgetting {
		return m.liveBytes(name) < row.stored()
	}
	return m.mostlyDead(name, row)
}

// chooseBlobs finds the holder's blobs that nothing leads to.
func (c *collection) chooseBlobs(ctx context.Context, m *Mark) error {
	if c.opt.Holder == nil {
		return nil
	}
	for _, prefix := range c.opt.Holder.Blobs() {
		for info, err := range c.l.blobs.List(ctx, prefix) {
			if err != nil {
				return err
			}
			if m.HasBlob(info.Name) {
				continue
			}
			c.garbage = append(c.garbage, info)
			if c.turn == nil {
				c.got.Blobs++
				c.got.Bytes += info.Size
			}
		}
	}
	return nil
}

// findUnnamed notes the packs and segments without a row.
func (c *collection) findUnnamed(ctx context.Context) error {
	return c.l.unnamed(ctx, func(info blob.Info) {
		c.unnamed[info.Name] = info.Size
		if c.turn == nil {
			c.got.Blobs++
			c.got.Bytes += info.Size
		}
	})
}

// condemn takes the chosen packs out of the reach of dedup hits.
func (c *collection) condemn(ctx context.Context) error {
	names := slices.SortedFunc(maps.Keys(c.chosen), compareHashes)
	for group := range slices.Chunk(names, rowsAtOnce) {
		var conditions []meta.Condition
		var writes []meta.Write
		for _, name := range group {
			info := c.chosen[name]
			if info.State == packCondemned { // by a collection that was interrupted
				continue
			}
			row := info.packRow
			row.State, row.Epoch = packCondemned, c.turn.Epoch()
			conditions = append(conditions, meta.At(c.l.packKey(name), info.version))
			writes = append(writes, meta.Set(c.l.packKey(name), mustJSON(row)))
		}
		if err := c.txn(ctx, conditions, writes); err != nil {
			return fmt.Errorf("condemn packs: %w", err)
		}
		if err := fault.Point("lake.gc.after_condemn"); err != nil {
			return err
		}
	}
	return nil
}

// await begins an epoch and returns when no operation is under way that began before it.
func (c *collection) await(ctx context.Context) error {
	watched, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := make(chan struct{}, 1)
	for _, prefix := range []string{c.l.seenPrefix(), sessionPrefix + "/"} { // reports, and sessions that end
		events := c.l.rows.Watch(watched, prefix, -1) // before the look below, so that nothing falls between
		go func() {
			for range events {
				select {
				case changed <- struct{}{}:
				default: // a look is due already
				}
			}
		}()
	}
	epoch, err := c.l.rows.Txn(ctx, c.turn.Conditions(), []meta.Write{meta.Set(c.l.epochKey(), mustJSON(epochRow{Began: c.now}))})
	if err != nil {
		return fmt.Errorf("begin an epoch: %w", err)
	}
	for {
		waiting, until, err := c.older(ctx, epoch)
		if err != nil || len(waiting) == 0 {
			return err
		}
		c.say("waiting for what began before, in %s", strings.Join(waiting, ", "))
		timer := time.NewTimer(max(time.Until(until), time.Millisecond))
		select {
		case <-changed:
		case <-timer.C: // not a poll: a session has not kept its promise, or made another one
		case <-ctx.Done():
			timer.Stop()
			return errBusy.Errorf("operations that began before the collection go on in %s; what they may read is not deleted: %w", strings.Join(waiting, ", "), context.Cause(ctx)).
				WithNext("tarn gc   # again, later")
		}
		timer.Stop()
	}
}

// errBusy ends a collection that would have had to wait longer than it may.
var errBusy = errdef.New(errdef.Unavailable, "lake.gc_busy", "operations are under way that began before the collection")

// epochRow is the value of the newest epoch; its number is the row's version.
type epochRow struct {
	Began time.Time `json:"began"`
}

// older returns the owners of the sessions that may have operations from before epoch, and when the first
// of them may be fenced. Sessions that have expired are.
func (c *collection) older(ctx context.Context, epoch int64) (owners []string, until time.Time, err error) {
	sessions := map[string]lease.Info{}
	for info, err := range lease.Sessions(ctx, c.l.rows, sessionPrefix) {
		if err != nil {
			return nil, until, err
		}
		sessions[info.Key] = info
	}
	for row, err := range c.l.rows.Scan(ctx, meta.Prefix(c.l.seenPrefix())) {
		if err != nil {
			return nil, until, err
		}
		var seen seenRow
		if err := json.Unmarshal(row.Value, &seen); err != nil {
			return nil, until, ErrCorrupt.Errorf("row %s is no report of a session: %w", row.Key, err)
		}
		if seen.Epoch >= epoch || seen.Epoch == 0 && row.Version > epoch {
			continue
		}
		info, there := sessions[seen.Session]
		if there {
			gone, err := lease.Fence(ctx, c.l.rows, info)
			if err != nil {
				return nil, until, err
			}
			there = !gone
		}
		if !there {
			if err := c.txn(ctx, []meta.Condition{meta.At(row.Key, row.Version)}, []meta.Write{meta.Delete(row.Key)}); err != nil {
				return nil, until, err
			}
			continue
		}
		owners = append(owners, info.Owner)
		if until.IsZero() || info.Until.Before(until) {
			until = info.Until
		}
	}
	return owners, until, nil
}
