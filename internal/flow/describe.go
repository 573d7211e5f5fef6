package flow

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/pattern"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/flow/memo"
	"tarn.dev/tarn/internal/lake"
)

// errNoItem is an item that a step does not have.
var errNoItem = errdef.New(errdef.NotFound, "run.item_not_found", "no such item")

// Item is one item of a step, as the run left it.
type Item struct {
	Run, Step, ID string
	State         StepState // succeeded, cached or failed
	Key           memo.Key
	Made          string // the run that made its result
	Rows          int64
	Files         []string
	Error         *errdef.Error
}

// ItemOf takes RUN/STEP/ITEM apart; an item is often a path.
func ItemOf(word string) (run, step, item string, ok bool) {
	parts := strings.SplitN(word, "/", 3)
	if len(parts) < 3 || slices.Contains(parts, "") {
		return "", "", "", false
	}
	return parts[0], parts[1], parts[2], true
}

// Item finds an item of a step: the one that failed, or one whose result is in the asset that the run
// published or kept.
func (f *Flow) Item(ctx context.Context, run, step, id string) (*Item, error) {
	r, err := f.Get(ctx, run)
	if err != nil {
		return nil, err
	}
	st, err := f.liveStep(ctx, r, step)
	if err != nil {
		return nil, err
	}
	out := &Item{Run: r.ID, Step: step, ID: id}
	if st.FailedAt == id && st.Error != nil {
		out.State, out.Error = StepFailed, st.Error
		return out, nil
	}
	slots, err := f.slotsAfter(ctx, r, step)
	if err != nil {
		return nil, err
	}
	s, ok := slots[id]
	if !ok {
		return nil, f.noItem(r, st, id, slots)
	}
	out.Key, out.State = s.Key, StepSucceeded
	for _, t := range s.Tables {
		out.Rows += t.Sum.Rows
	}
	for _, file := range s.Files {
		out.Files = append(out.Files, step+"/"+file.Path)
	}
	frag, err := f.memo.Lookup(ctx, s.Key)
	if err != nil || frag == nil {
		return out, err
	}
	p, err := memo.GetProvenance(ctx, f.lake, frag.Provenance)
	if err != nil || p == nil {
		return out, err
	}
	if out.Made = p.Run; p.Run != r.ID {
		out.State = StepCached
	}
	return out, nil
}

// slotsAfter is the state of an asset after a run; nil when there is none.
func (f *Flow) slotsAfter(ctx context.Context, r *Run, step string) (map[string]slot, error) {
	commit, _, err := f.recordedInputs(ctx, r)
	if err != nil {
		return nil, err
	}
	t := f.lake.Tree(commit.Tree)
	d, err := f.Definition(ctx, t, step)
	if err != nil || d == nil {
		return nil, err
	}
	e, err := entryAt(ctx, t, stateKey(&d.Function))
	if err != nil || e == nil || e.Location.Slots.IsZero() {
		return nil, err
	}
	return f.readSlots(ctx, e.Location.Slots)
}

func (f *Flow) noItem(r *Run, st *Step, id string, slots map[string]slot) error {
	var names []string
	for name := range slots {
		if name != slotAll {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if st.FailedAt != "" && !slices.Contains(names, st.FailedAt) {
		names = append(names, st.FailedAt)
	}
	if len(names) == 0 {
		return errNoItem.Errorf("%s has no items of its own in what run %s left.", st.Name, r.ID).WithNext("tarn show " + st.Label())
	}
	return errNoItem.Errorf("%s has no item '%s'. %sItems: %s.", st.Label(), id, manifest.DidYouMean(id, names), manifest.List(names[:min(len(names), maxItemsListed)]))
}

const maxItemsListed = 10

func whyItem(it *Item) Answer {
	label := fmt.Sprintf("%s/%s/%s", it.Run, it.Step, it.ID)
	switch it.State {
	case StepFailed:
		return Answer{Sentence: fmt.Sprintf("%s failed: %s", label, sentence(it.Error.Message)), Command: "tarn debug " + label}
	case StepCached:
		return Answer{Sentence: fmt.Sprintf("%s was reused: run %s had made it from the same code and input.", label, it.Made), Command: "tarn show " + it.Made + "/" + it.Step}
	}
	return Answer{Sentence: label + " ran: no result of this code and input was known.", Command: "tarn logs " + it.Run + "/" + it.Step}
}

// EnvironmentNamed is the environment of a project folder that has a name, or whose lock begins with it;
// nil for none.
func (f *Flow) EnvironmentNamed(ctx context.Context, dir, word string) (*Environment, error) {
	envs, err := f.Environments(ctx, dir)
	if err != nil {
		return nil, err
	}
	for i, e := range envs {
		if e.Spec.Name == word || hashLike().MatchString(word) && e.Lock != nil && strings.HasPrefix(e.Lock.ID, word) {
			return &envs[i], nil
		}
	}
	return nil, nil
}

func whyEnvironment(e *Environment) Answer {
	used := fmt.Sprintf("%s is the environment of %s", e.Spec.Name, manifest.List(e.Functions))
	switch {
	case e.Lock == nil:
		return Answer{Sentence: used + ", and is not locked yet: its first run resolves it.", Command: "tarn env lock"}
	case !e.Ready:
		return Answer{Sentence: used + ", locked in tarn.lock and not installed on this host: its next run does that.", Command: "tarn env ls"}
	}
	return Answer{Sentence: used + ", locked in tarn.lock and installed on this host.", Command: "tarn env ls"}
}

// hashLike is what may be the beginning of a hash: as short as people copy them.
var hashLike = pattern.Of(`^[0-9a-f]{7,64}$`)

// Holder is something on a ref that has a hash.
type Holder struct {
	What string // content, state, definition, provenance or tree
	Name string // of the entry, as people write it; "" for a tree
	Ref  string
	Hash string // whole
}

// Holders finds what a hash is on the branches and tags: that is what keeps it alive. It reads every
// entry that they hold, for nobody else knows.
func (f *Flow) Holders(ctx context.Context, word string) ([]Holder, error) {
	if !hashLike().MatchString(word) {
		return nil, nil
	}
	var out []Holder
	seen := map[lake.Hash]bool{}
	look := func(ref lake.Ref) error {
		c, err := f.lake.Commit(ctx, ref.Commit)
		if err != nil || seen[c.Tree] {
			return err
		}
		seen[c.Tree] = true
		is := func(what, name, hash string) {
			if strings.HasPrefix(hash, word) {
				out = append(out, Holder{What: what, Name: name, Ref: ref.Name, Hash: hash})
			}
		}
		is("tree", "", c.Tree.String())
		for ke, err := range f.lake.Tree(c.Tree).Scan(ctx, "", "") {
			if err != nil {
				return err
			}
			name, l := lake.DisplayKey(ke.Key), ke.Entry.Location
			is("content", name, ke.Entry.Version)
			for what, hash := range map[string]lake.Hash{"content": l.Ref.Root, "state": l.Slots, "definition": l.Object, "provenance": l.Provenance} {
				if !hash.IsZero() && hash.String() != ke.Entry.Version {
					is(what, name, hash.String())
				}
			}
		}
		return nil
	}
	if err := f.heads(ctx, look); err != nil {
		return nil, err
	}
	return out, nil
}

func (h Holder) String() string {
	if h.Name == "" {
		return fmt.Sprintf("the %s of %s", h.What, h.Ref)
	}
	return fmt.Sprintf("the %s of %s on %s", h.What, h.Name, h.Ref)
}
