package lake

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/lake/prolly"
)

// ErrMergeConflict is returned by a merge or revert that left its branch untouched because of
// conflicts. The detail "conflicts" lists them.
var ErrMergeConflict = errdef.New(errdef.Conflict, "lake.merge_conflict", "the two sides do not fit together")

// ErrInvalidPrefer is returned for a preference that cannot be meant.
var ErrInvalidPrefer = errdef.New(errdef.InvalidArgument, "lake.invalid_prefer", "invalid preference")

// Reasons of conflicts that the merge itself finds; resolvers have their own.
const (
	ReasonBothChanged = "lake.both_changed" // the same entry, in different ways
	ReasonBothAdded   = "lake.both_added"   // different entries under one key
	ReasonDeleted     = "lake.deleted"      // one side deleted what the other changed
	ReasonKindChanged = "lake.kind_changed" // the sides made different kinds of it
)

// Side is one side of a merge: target is where the result goes, source is where it comes from.
type Side string

// The sides.
const (
	Source Side = "source"
	Target Side = "target"
)

// Resolver merges two changes of one entry of its kind. Base is nil when both sides added it, or when
// merges that crossed each other leave open what the common state was; source
// and target are never nil. It returns the merged entry or the conflict. What it writes into b or
// elsewhere becomes part of the history only if the whole merge does.
type Resolver interface {
	Resolve(ctx context.Context, b *Batch, key string, base, source, target *Entry) (*Entry, *Conflict, error)
}

// Conflict is a key whose two changes do not fit together. Reason is stable, Message is for people,
// Details marshals to JSON and is the kind's own.
type Conflict struct {
	Key     string `json:"key"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
	Details any    `json:"details,omitempty"`
}

// MergeOptions say what happens to entries that both sides changed.
type MergeOptions struct {
	Resolvers map[Kind]Resolver
	// Prefer takes a side for a key that both changed, before any resolver is asked.
	Prefer map[string]Side
}

// MergeResult is what a merge does, or would do: a dry run gives the same as the merge itself.
type MergeResult struct {
	Tree        Tree
	Base        Hash // the merge base; zero when MergeTrees was called
	FastForward bool // the target moves to the source, there is no merge commit
	Changes     []Change
	Conflicts   []Conflict
}

// Gate judges a result before it becomes visible; its error stops everything.
type Gate func(ctx context.Context, r MergeResult) error

// MergeTrees applies to target what changed from base to source, key by key, by identity. A key that
// one side left alone is taken from the other; equal identities keep the target's location; the rest is
// up to the options. With conflicts the tree is not complete.
func (l *Lake) MergeTrees(ctx context.Context, b *Batch, base, source, target Tree, opt MergeOptions) (MergeResult, error) {
	m := merger{batch: b, opt: opt}
	for w, err := range prolly.Merge3(ctx, base.mapping(), source.mapping(), target.mapping(), prolly.Range{}) {
		if err != nil {
			return MergeResult{}, err
		}
		if err := m.key(ctx, w); err != nil {
			return MergeResult{}, err
		}
	}
	if err := m.checkPrefer(ctx, base, source, target); err != nil {
		return MergeResult{}, err
	}
	tree, err := target.Edit(ctx, b, m.edits)
	if err != nil {
		return MergeResult{}, err
	}
	return MergeResult{Tree: tree, Changes: m.changes, Conflicts: m.conflicts}, nil
}

type merger struct {
	batch     *Batch
	opt       MergeOptions
	edits     []Edit
	changes   []Change
	conflicts []Conflict
}

// key decides about one key that at least one side changed.
func (m *merger) key(ctx context.Context, w prolly.ThreeWay) error {
	if w.Changed == prolly.Target {
		return nil
	}
	key := string(w.Key)
	var sides [3]*Entry
	for i, data := range [][]byte{w.Base, w.Source, w.Target} {
		var err error
		if sides[i], err = m.batch.l.side(key, data); err != nil {
			return err
		}
	}
	base, source, target := sides[0], sides[1], sides[2]
	crossed := base != nil && base.Version == undecided
	if crossed {
		base = nil
	}
	switch {
	case w.Changed == prolly.Source:
		m.take(key, source, target) // also when it only lies elsewhere
	case source.SameIdentity(target), source.SameIdentity(base):
		// The target's entry and its location stay.
	case target.SameIdentity(base):
		m.take(key, source, target)
	default:
		return m.resolve(ctx, key, base, source, target, crossed)
	}
	return nil
}

// take puts e into the result.
func (m *merger) take(key string, e, target *Entry) {
	m.edits = append(m.edits, Edit{Key: key, Entry: e})
	if !e.SameIdentity(target) {
		m.changes = append(m.changes, Change{Key: key, Before: target, After: e})
	}
}

// resolve decides about a key that both sides changed to different identities; crossed says that the
// base had it, but not what it was.
func (m *merger) resolve(ctx context.Context, key string, base, source, target *Entry, crossed bool) error {
	switch m.opt.Prefer[key] {
	case Source:
		m.take(key, source, target)
		return nil
	case Target:
		return nil
	}
	if source != nil && target != nil && source.Kind == target.Kind {
		if r, ok := m.opt.Resolvers[source.Kind]; ok {
			merged, conflict, err := r.Resolve(ctx, m.batch, key, base, source, target)
			switch {
			case err != nil:
				return fmt.Errorf("merge %s: %w", DisplayKey(key), err)
			case conflict == nil:
				m.take(key, merged, target)
				return nil
			}
			c := *conflict
			c.Key = key
			m.conflicts = append(m.conflicts, c)
			return nil
		}
	}
	c := Conflict{Key: key, Reason: ReasonBothChanged, Message: "both changed it"}
	switch {
	case source == nil:
		c.Reason, c.Message = ReasonDeleted, "the source deleted it, the target changed it"
	case target == nil:
		c.Reason, c.Message = ReasonDeleted, "the source changed it, the target deleted it"
	case source.Kind != target.Kind:
		c.Reason, c.Message = ReasonKindChanged, fmt.Sprintf("the source made it a %s, the target a %s", source.Kind, target.Kind)
	case base == nil && !crossed:
		c.Reason, c.Message = ReasonBothAdded, "both added it, with different content"
	}
	c.Message = DisplayKey(key) + ": " + c.Message
	m.conflicts = append(m.conflicts, c)
	return nil
}

// checkPrefer refuses a side that does not exist and a key that none of the trees has: a misspelt
// preference must not pass for one that was not needed.
func (m *merger) checkPrefer(ctx context.Context, trees ...Tree) error {
	for key, side := range m.opt.Prefer {
		if side != Source && side != Target {
			return ErrInvalidPrefer.Errorf("prefer %s=%s: the side is source or target", DisplayKey(key), side)
		}
		found := false
		for _, t := range trees {
			_, ok, err := t.Get(ctx, key)
			if err != nil {
				return err
			}
			found = found || ok
		}
		if !found {
			return ErrInvalidPrefer.Errorf("prefer %s=%s: neither side has %s", DisplayKey(key), side, DisplayKey(key))
		}
	}
	return nil
}

// Merge brings into the branch target what changed in source since their merge base, as one commit
// with two parents. When target has nothing that source lacks and info has no message, the branch moves
// to source itself. A gate, if any, judges the result first. With conflicts the branch stays as it is
// and the error is ErrMergeConflict. A dry run does all of it except for the change, and reports
// conflicts in the result only.
func (l *Lake) Merge(ctx context.Context, source Hash, target string, info CommitInfo, opt MergeOptions, gate Gate, dryRun bool) (MergeResult, Commit, error) {
	return l.publish(ctx, target, info, gate, dryRun, func(ctx context.Context, tx *Tx) (MergeResult, error) {
		return l.MergeInto(ctx, tx, source, info.Message == "", opt)
	})
}

// MergeInto does inside of an update what Merge does, apart from refusing conflicts: with conflicts the
// caller must end the update. With forward the branch may move to source itself, unless the update
// changes something else, too.
func (l *Lake) MergeInto(ctx context.Context, tx *Tx, source Hash, forward bool, opt MergeOptions) (MergeResult, error) {
	from, err := l.Commit(ctx, source)
	if err != nil {
		return MergeResult{}, err
	}
	bases, err := l.mergeBases(ctx, from.ID, tx.Head.ID)
	if err != nil {
		return MergeResult{}, err
	}
	baseTree, err := l.virtualBase(ctx, tx.batch, bases)
	if err != nil {
		return MergeResult{}, err
	}
	target, err := tx.Tree(ctx)
	if err != nil {
		return MergeResult{}, err
	}
	r, err := l.MergeTrees(ctx, tx.batch, baseTree, l.Tree(from.Tree), target, opt)
	if err != nil {
		return MergeResult{}, err
	}
	if len(bases) > 0 { // unrelated histories have none
		r.Base = bases[0].ID
	}
	tx.why = "merge"
	if r.Base == from.ID { // the target has it all
		return r, nil
	}
	if r.Base == tx.Head.ID && forward && target.Root() == tx.Head.Tree {
		r.FastForward = true
		tx.moveTo = &from
		r.Tree = l.Tree(from.Tree) // entries may lie elsewhere there
	}
	tx.SetTree(r.Tree)
	tx.AddParent(from)
	tx.message = "Merge " + short(from.ID) + " into " + tx.Branch
	return r, nil
}

// undecided stands in a virtual base for an entry that its ancestors disagree about: both sides of the
// merge have changed it, whatever they have.
const undecided = "\x00undecided"

// virtualBase is the tree to merge from. After merges that crossed each other there are several best
// common ancestors; taking one of them would make what came with the others look like a change of both
// sides. So they are merged first, each pair from its own base in the same way.
func (l *Lake) virtualBase(ctx context.Context, b *Batch, bases []Commit) (Tree, error) {
	if len(bases) == 0 {
		return l.Tree(Hash{}), nil
	}
	merged := l.Tree(bases[0].Tree)
	for _, other := range bases[1:] {
		older, err := l.mergeBases(ctx, bases[0].ID, other.ID)
		if err != nil {
			return Tree{}, err
		}
		from, err := l.virtualBase(ctx, b, older)
		if err != nil {
			return Tree{}, err
		}
		r, err := l.MergeTrees(ctx, b, from, l.Tree(other.Tree), merged, MergeOptions{})
		if err != nil {
			return Tree{}, err
		}
		var edits []Edit
		for _, c := range r.Conflicts {
			edits = append(edits, Edit{Key: c.Key, Entry: &Entry{Kind: KindExternal, Version: undecided}})
		}
		if merged, err = r.Tree.Edit(ctx, b, edits); err != nil {
			return Tree{}, err
		}
	}
	return merged, nil
}

// Revert makes a commit on branch that undoes what commit changed from its first parent. It is a merge:
// changes that others built on are conflicts, and the options and gate apply.
func (l *Lake) Revert(ctx context.Context, commit Hash, branch string, info CommitInfo, opt MergeOptions, gate Gate) (MergeResult, Commit, error) {
	return l.publish(ctx, branch, info, gate, false, func(ctx context.Context, tx *Tx) (MergeResult, error) {
		return l.RevertInto(ctx, tx, commit, opt)
	})
}

// RevertInto does inside of an update what Revert does, apart from refusing conflicts: with conflicts
// the caller must end the update.
func (l *Lake) RevertInto(ctx context.Context, tx *Tx, commit Hash, opt MergeOptions) (MergeResult, error) {
	undone, err := l.Commit(ctx, commit)
	if err != nil {
		return MergeResult{}, err
	}
	var parent Hash
	if len(undone.Parents) > 0 {
		c, err := l.Commit(ctx, undone.Parents[0])
		if err != nil {
			return MergeResult{}, err
		}
		parent = c.Tree
	}
	target, err := tx.Tree(ctx)
	if err != nil {
		return MergeResult{}, err
	}
	r, err := l.MergeTrees(ctx, tx.batch, l.Tree(undone.Tree), l.Tree(parent), target, opt)
	if err != nil {
		return MergeResult{}, err
	}
	tx.why = "revert"
	tx.message = "Revert " + short(undone.ID)
	if undone.Message != "" {
		tx.message += " (" + clip(strings.TrimSpace(undone.Message)) + ")"
	}
	tx.SetTree(r.Tree)
	return r, nil
}

// publish runs a merge inside of an update, so that it sees the head it will replace.
func (l *Lake) publish(ctx context.Context, branch string, info CommitInfo, gate Gate, dryRun bool, merge func(context.Context, *Tx) (MergeResult, error)) (MergeResult, Commit, error) {
	var result MergeResult
	judged := func(ctx context.Context, tx *Tx) (err error) {
		if result, err = merge(ctx, tx); err != nil {
			return err
		}
		if len(result.Conflicts) == 0 && gate != nil {
			return gate(ctx, result)
		}
		return nil
	}
	if dryRun {
		c, err := l.Rehearse(ctx, branch, judged)
		return result, c, err
	}
	c, err := l.Update(ctx, branch, info, func(ctx context.Context, tx *Tx) error {
		if err := judged(ctx, tx); err != nil {
			return err
		}
		return ConflictError(branch, result.Conflicts)
	})
	return result, c, err
}

// Rehearse calls fn as Update would, and drops what it did. The commit is the head.
func (l *Lake) Rehearse(ctx context.Context, branch string, fn func(context.Context, *Tx) error) (Commit, error) {
	ref, err := l.Branch(ctx, branch)
	if err != nil {
		return Commit{}, err
	}
	head, err := l.Commit(ctx, ref.Commit)
	if err != nil {
		return Commit{}, err
	}
	batch := l.Begin(ctx)
	defer batch.Discard()
	return head, fn(ctx, &Tx{Head: head, Branch: branch, batch: batch, tree: l.Tree(head.Tree)})
}

// ConflictError is ErrMergeConflict in words; nil without conflicts.
func ConflictError(branch string, conflicts []Conflict) error {
	if len(conflicts) == 0 {
		return nil
	}
	var messages []string
	for _, c := range conflicts[:min(len(conflicts), 5)] {
		messages = append(messages, c.Message)
	}
	if n := len(conflicts) - len(messages); n > 0 {
		messages = append(messages, fmt.Sprintf("and %d more", n))
	}
	return ErrMergeConflict.Errorf("%s. %s is unchanged.", strings.Join(messages, "; "), branch).
		WithDetail("conflicts", slices.Clone(conflicts))
}
