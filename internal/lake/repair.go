package lake

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/lease"
)

// quarantinePrefix is of the rows and blobs that a repair has put aside, for people to look at.
const quarantinePrefix = "quarantine/"

// asideRow is the value of a row that tells what was put aside: a row as it was stored, or a blob that is now
// below quarantinePrefix.
type asideRow struct {
	Time    time.Time `json:"time"`
	Why     string    `json:"why"`
	Key     []byte    `json:"key,omitempty"`
	Value   []byte    `json:"value,omitempty"`
	Version int64     `json:"version,omitempty"`
	Sum     int64     `json:"sum,omitempty"`
	Blob    string    `json:"blob,omitempty"`
	Objects []Hash    `json:"objects,omitempty"` // that were lost with it
}

// RepairRows sets right every row of a store of which one byte has changed, puts the others aside, and reports each.
// It needs no lake: one whose rows are damaged may not open.
func RepairRows(ctx context.Context, rows meta.Store, s *lease.Session, report func(Problem)) error {
	var damaged []meta.Damage
	for d, err := range rows.Check(ctx) {
		if err != nil {
			return fmt.Errorf("repair: %w", err)
		}
		if d.Key != "" {
			damaged = append(damaged, d)
		}
	}
	r := &repair{l: &Lake{rows: rows}, mine: s.Condition(), report: report}
	for _, d := range damaged {
		if err := r.row(ctx, d); err != nil {
			return fmt.Errorf("repair: %w", err)
		}
	}
	return nil
}

// Repair comes after RepairRows. It sets right what can be told from what is left, puts aside what cannot, and
// reports each; nothing is deleted of which there is no copy. What was lost is for Fsck to say afterwards. It may
// run beside readers and writers, not beside a collection (see Undisturbed); after a crash it goes on.
func (l *Lake) Repair(ctx context.Context, report func(Problem)) error {
	s, err := l.session(ctx)
	if err != nil {
		return err
	}
	r := &repair{l: l, mine: s.Condition(), report: report}
	for _, part := range []func(context.Context) error{r.packRows, r.packs, l.RebuildIndex, r.lostBranches, r.reflogs, r.commitRows} {
		if err := part(ctx); err != nil {
			return fmt.Errorf("repair: %w", err)
		}
	}
	return nil
}

type repair struct {
	l      *Lake
	mine   meta.Condition // the session is alive
	report func(Problem)
}

func (r *repair) did(reason, where, format string, args ...any) {
	r.report(Problem{Reason: reason, Where: where, Message: fmt.Sprintf(format, args...)})
}

// row heals one row, or puts it aside.
func (r *repair) row(ctx context.Context, d meta.Damage) error {
	conditions := []meta.Condition{r.mine, meta.At(d.Key, d.Version)}
	if was, ok := d.Heal(); ok {
		writes := []meta.Write{meta.Set(was.Key, was.Value)}
		if was.Key != d.Key {
			conditions, writes = append(conditions, meta.Absent(was.Key)), append(writes, meta.Delete(d.Key))
		}
		switch _, err := r.l.rows.Txn(ctx, conditions, writes); {
		case err == nil:
			r.did("repair.row", was.Key, "one byte had changed; it is again what was written")
			return nil
		case !errors.Is(err, meta.ErrConditionFailed):
			return err
		}
	}
	aside := asideRow{Time: time.Now().UTC(), Why: d.Err.Error(), Key: []byte(d.Key), Value: d.Value, Version: d.Version, Sum: d.Sum}
	_, err := r.l.rows.Txn(ctx, conditions[:2], []meta.Write{meta.Set(quarantinePrefix+d.Key, mustJSON(aside)), meta.Delete(d.Key)})
	if errors.Is(err, meta.ErrConditionFailed) {
		return nil // it was written meanwhile, and is sound
	}
	if err == nil {
		r.did("repair.row_aside", d.Key, "more than one byte has changed; it is now the row %s%s", quarantinePrefix, d.Key)
	}
	return err
}

// packRows writes the rows of packs anew that were put aside, from the packs' footers.
func (r *repair) packRows(ctx context.Context) error {
	prefix := quarantinePrefix + r.l.packKey(Hash{})
	prefix = strings.TrimSuffix(prefix, Hash{}.String())
	for row, err := range meta.Sound(r.l.rows.Scan(ctx, meta.Prefix(prefix))) {
		if err != nil {
			return err
		}
		name, ok := r.l.packOfKey(strings.TrimPrefix(row.Key, quarantinePrefix))
		if !ok {
			continue
		}
		info, err := r.l.blobs.Stat(ctx, packBlob(name))
		if errors.Is(err, blob.ErrNotFound) {
			continue
		}
		var places []place
		if err == nil {
			places, err = readFooter(ctx, r.l.blobs, name, info.Size)
		}
		if errdef.IsCorrupt(err) {
			continue
		}
		if err != nil {
			return err
		}
		key := r.l.packKey(name)
		_, err = r.l.rows.Txn(ctx, []meta.Condition{r.mine, meta.Absent(key)},
			[]meta.Write{meta.Set(key, mustJSON(packRow{State: packLive, Size: info.Size, Objects: len(places)})), meta.Delete(row.Key)})
		switch {
		case err == nil:
			r.did("repair.pack_row", key, "written anew from the pack's footer")
		case !errors.Is(err, meta.ErrConditionFailed):
			return err
		}
	}
	return r.l.refreshNow(ctx)
}

// packs takes every pack with damage out of use: its sound objects go into another one, the blob goes aside.
// Afterwards what is put again is stored again, which heals what was lost.
func (r *repair) packs(ctx context.Context) error {
	packs, _, err := r.l.scanPacks(ctx)
	if err != nil {
		return err
	}
	for _, name := range slices.SortedFunc(maps.Keys(packs), compareHashes) {
		next, lost, err := r.salvage(ctx, name, packs[name].Size)
		if err == nil {
			continue
		}
		if !errdef.IsCorrupt(err) {
			return err
		}
		if err := r.swap(ctx, name, packs[name], next, lost, err); err != nil {
			return err
		}
	}
	return nil
}

// salvage reads a whole pack. Of one with damage it returns a pack of the sound objects, the names of the others,
// and what is wrong.
func (r *repair) salvage(ctx context.Context, name Hash, size int64) (next *pack, lost []Hash, err error) {
	places, err := r.footer(ctx, name, size)
	if errdef.IsCorrupt(err) {
		listed, lerr := r.listed(ctx, name, size)
		if lerr != nil {
			return nil, nil, lerr
		}
		places = listed
	} else if err != nil {
		return nil, nil, err
	}
	next = newPack(nil)
	for _, at := range places {
		stored, rerr := readBlob(ctx, r.l.blobs, packBlob(name), int64(at.offset), int64(at.stored))
		if rerr == nil {
			_, rerr = openObject(location{name, at}, stored)
		} else if errors.Is(rerr, blob.ErrNotFound) {
			rerr = missingPack(name, rerr)
		}
		switch {
		case rerr == nil:
			next.add(at.hash, at.typ, stored, at.codec, int(at.raw))
		case errdef.IsCorrupt(rerr):
			lost, err = append(lost, at.hash), rerr
		default:
			return nil, nil, rerr
		}
	}
	return next, lost, err
}

// footer is readFooter of a blob that is whole.
func (r *repair) footer(ctx context.Context, name Hash, size int64) ([]place, error) {
	head, err := readBlob(ctx, r.l.blobs, packBlob(name), 0, int64(packHeader))
	if err != nil {
		return nil, missingPack(name, err)
	}
	info, err := r.l.blobs.Stat(ctx, packBlob(name))
	switch {
	case err != nil:
		return nil, missingPack(name, err)
	case info.Size != size:
		return nil, ErrCorrupt.Errorf("pack %s has %d bytes, its row says %d", name, info.Size, size)
	case string(head) != packMagic:
		return nil, ErrCorrupt.Errorf("pack %s does not begin as a pack", name)
	}
	return readFooter(ctx, r.l.blobs, name, size)
}

// listed is what can be known of the objects of a pack that is not whole: from its footer, else from the index.
func (r *repair) listed(ctx context.Context, name Hash, size int64) (out []place, err error) {
	if places, err := readFooter(ctx, r.l.blobs, name, size); !errdef.IsCorrupt(err) {
		return places, err
	}
	x := r.l.index
	x.mu.RLock()
	segments, loose := x.segments, x.footers[name]
	x.mu.RUnlock()
	if loose != nil {
		return loose, nil // read before it was damaged
	}
	for _, s := range segments {
		if !slices.Contains(s.packs, name) {
			continue
		}
		for loc, err := range s.all(ctx, r.l.blobs) {
			if errdef.IsCorrupt(err) {
				break // what was read before is no worse for it: each object is proved by its hash
			}
			if err != nil {
				return nil, err
			}
			if loc.pack == name {
				out = append(out, loc.place)
			}
		}
		break
	}
	return out, nil
}

// swap makes next live in place of a damaged pack, whose blob it then moves.
func (r *repair) swap(ctx context.Context, name Hash, info packInfo, next *pack, lost []Hash, why error) error {
	l, key := r.l, r.l.packKey(name)
	aside := asideRow{Time: time.Now().UTC(), Why: why.Error(), Blob: quarantinePrefix + packBlob(name), Objects: lost}
	conditions := []meta.Condition{r.mine, meta.At(key, info.version)}
	writes := []meta.Write{meta.Delete(key), meta.Set(quarantinePrefix+l.prefix+"blob/"+packBlob(name), mustJSON(aside))}
	if len(next.places) > 0 {
		next.finish(randomNonce())
		if err := l.blobs.Put(ctx, packBlob(next.name), bytes.NewReader(next.data)); err != nil {
			return err
		}
		row := packRow{State: packLive, Size: int64(len(next.data)), Objects: len(next.places)}
		writes = append(writes, meta.Set(l.packKey(next.name), mustJSON(row)))
	}
	if err := copyBlob(ctx, l.blobs, packBlob(name), aside.Blob); err != nil {
		return err
	}
	if _, err := l.rows.Txn(ctx, conditions, writes); err != nil {
		return err
	}
	r.did("repair.pack_aside", packBlob(name), "%d of its objects are in another pack now, %d are lost; the rest is kept as %s", len(next.places), len(lost), aside.Blob)
	if err := l.refreshNow(ctx); err != nil {
		return err
	}
	if err := l.blobs.Delete(ctx, packBlob(name)); err != nil && !errors.Is(err, blob.ErrNotFound) {
		return err
	}
	return nil
}

// copyBlob copies what is there; a blob that is missing is not there to be copied.
func copyBlob(ctx context.Context, blobs blob.Store, from, to string) (err error) {
	src, err := blobs.Get(ctx, from, 0, -1)
	if errors.Is(err, blob.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func(c io.Closer) { err = errors.Join(err, c.Close()) }(src)
	if err := blobs.Put(ctx, to, src); !errors.Is(err, blob.ErrExists) { // by a repair that was interrupted
		return err
	}
	return nil
}

// commitRows gives every commit of the history its row.
func (r *repair) commitRows(ctx context.Context) error {
	seen := map[Hash]bool{}
	for move, err := range r.heads(ctx) {
		if err != nil {
			return err
		}
		pending := []Hash{move}
		for len(pending) > 0 {
			id := pending[len(pending)-1]
			pending = pending[:len(pending)-1]
			if seen[id] {
				continue
			}
			seen[id] = true
			c, err := r.l.Commit(ctx, id)
			if errdef.IsCorrupt(err) || errdef.CodeOf(err) == errdef.NotFound {
				continue // for Fsck to say
			}
			if err != nil {
				return err
			}
			pending = append(pending, c.Parents...)
			key := r.l.commitKey(id.String())
			switch _, err := r.l.rows.Txn(ctx, []meta.Condition{r.mine, meta.Absent(key)}, []meta.Write{meta.Set(key, nil)}); {
			case err == nil:
				r.did("repair.commit_row", key, "written anew: the commit is in the history")
			case !errors.Is(err, meta.ErrConditionFailed):
				return err
			}
		}
	}
	return nil
}

// heads are the commits of all branches and tags that can be read.
func (r *repair) heads(ctx context.Context) func(yield func(Hash, error) bool) {
	return func(yield func(Hash, error) bool) {
		for _, prefix := range []string{r.l.branchKey(""), r.l.tagKey("")} {
			for row, err := range meta.Sound(r.l.rows.Scan(ctx, meta.Prefix(prefix))) {
				if err != nil {
					yield(Hash{}, err)
					return
				}
				ref, err := parseRef(strings.TrimPrefix(row.Key, prefix), row)
				if err == nil && !yield(ref.Commit, nil) {
					return
				}
			}
		}
	}
}

// lostBranches makes branches again whose rows were put aside, where their reflog left them.
func (r *repair) lostBranches(ctx context.Context) error {
	prefix := quarantinePrefix + r.l.branchKey("")
	for row, err := range meta.Sound(r.l.rows.Scan(ctx, meta.Prefix(prefix))) {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(row.Key, prefix)
		if CheckRefName(name) != nil {
			continue
		}
		last, ok, err := r.lastMove(ctx, name)
		if err != nil {
			return err
		}
		if !ok || last.Commit.IsZero() {
			continue
		}
		value, err := json.Marshal(refRow{Commit: last.Commit, Time: last.Time})
		if err != nil {
			return err
		}
		key := r.l.branchKey(name)
		switch _, err := r.l.rows.Txn(ctx, []meta.Condition{r.mine, meta.Absent(key)},
			[]meta.Write{meta.Set(key, value), r.l.touch(last.Commit), meta.Delete(row.Key)}); {
		case err == nil:
			r.did("repair.branch", name, "made again at %s, where its reflog left it", last.Commit)
		case !errors.Is(err, meta.ErrConditionFailed):
			return err
		}
	}
	return nil
}

// reflogs adds a line for each branch whose last one was put aside.
func (r *repair) reflogs(ctx context.Context) error {
	prefix := r.l.branchKey("")
	for row, err := range meta.Sound(r.l.rows.Scan(ctx, meta.Prefix(prefix))) {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(row.Key, prefix)
		ref, err := parseRef(name, row)
		if err != nil {
			continue // for Fsck to say
		}
		last, ok, err := r.lastMove(ctx, name)
		if err != nil {
			return err
		}
		if ok && last.Commit == ref.Commit {
			continue
		}
		// A move and its branch are written together: while the branch stays as it was read, so does its last move.
		_, err = r.l.rows.Txn(ctx, []meta.Condition{r.mine, meta.At(row.Key, row.Version)},
			[]meta.Write{meta.Set(r.l.moveKey(name, after(last.Time)), mustJSON(moveRow{Commit: ref.Commit, Why: "repair"}))})
		switch {
		case err == nil:
			r.did("repair.reflog", name, "its reflog ends where the branch is again")
		case !errors.Is(err, meta.ErrConditionFailed):
			return err
		}
	}
	return nil
}

func (r *repair) lastMove(ctx context.Context, branch string) (Move, bool, error) {
	for m, err := range r.l.moves(ctx, branch, time.Time{}, 1) {
		if errdef.IsCorrupt(err) {
			return Move{}, false, nil
		}
		return m, err == nil, err
	}
	return Move{}, false, nil
}
