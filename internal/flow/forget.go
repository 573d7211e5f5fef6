package flow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/flow/memo"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/meta"
)

// Errors of forgetting.
var (
	errNotForgettable = errdef.New(errdef.InvalidArgument, "forget.kind", "it cannot be forgotten")
	errForgetPart     = errdef.New(errdef.FailedPrecondition, "forget.asset", "a part of what an asset made cannot be forgotten")
	errForgetHead     = errdef.New(errdef.FailedPrecondition, "forget.head", "a branch has that version")
	errLogForgotten   = errdef.New(errdef.NotFound, "forget.log", "it may have told what was forgotten")
)

// ForgetRequest asks for the contents of tables and files to go for good.
type ForgetRequest struct {
	// Names are tables, files, and folders with a slash at the end: all that any commit has of them. NAME@REF is the
	// version that REF has.
	Names    []string
	Info     lake.CommitInfo
	DryRun   bool
	Progress func(string)
}

// ForgottenContent is one content that goes, or has gone.
type ForgottenContent struct {
	Key, Version string
	Kind         lake.Kind
	Size, Rows   int64
	Commits      int // that came to hold it
}

// Forgotten is what was forgotten, or would be.
type Forgotten struct {
	Contents []ForgottenContent
	// Branches have it now; unless it is a dry run, it was removed from them.
	Branches []string
	// Derived are names on those branches that were made from it. They stay.
	Derived []string
	// What a dry run does not know:
	lake.Forgotten
}

// Forget removes names from all branches, and frees all that any commit, result or log has of them. When it returns without
// an error the bytes are gone from the store and the rows of this server.
func (f *Flow) Forget(ctx context.Context, r ForgetRequest) (Forgotten, error) {
	p, err := f.planForget(ctx, r)
	if err != nil || r.DryRun {
		return p.Forgotten, err
	}
	for _, branch := range p.Branches {
		r.Progress("removing it from " + branch)
		if err := f.removeForgotten(ctx, branch, r.Info, p); err != nil {
			return p.Forgotten, err
		}
	}
	tombstones := slices.Collect(maps.Values(p.tombstones))
	for i := range tombstones {
		tombstones[i].Author, tombstones[i].Steps = r.Info.Author, p.steps
	}
	p.Forgotten.Forgotten, err = f.lake.Forget(ctx, tombstones, lake.CollectOptions{
		Keep: KeepDeleted, HeadOnly: f.isRunBranch, Holder: &holdings{f, now()}, Progress: r.Progress,
	})
	if err != nil {
		return p.Forgotten, err
	}
	r.Progress("clearing the rows")
	return p.Forgotten, f.rows.Scrub(ctx)
}

// forgetting is what a request for forgetting comes to.
type forgetting struct {
	Forgotten
	selected   func(key string) bool
	prefixes   []string
	version    string // of NAME@REF; else all
	tombstones map[string]lake.Tombstone
	steps      []string // that have read it: they may have told of it
}

// planForget finds what goes. It is an operation of its own: what it has read may go when it has returned.
func (f *Flow) planForget(ctx context.Context, r ForgetRequest) (*forgetting, error) {
	defer f.lake.Enter()()
	p := &forgetting{tombstones: map[string]lake.Tombstone{}}
	if err := f.selectForgotten(ctx, p, r.Names); err != nil {
		return p, err
	}
	found := map[string]*ForgottenContent{}
	err := f.lake.History(ctx, p.prefixes, func(h lake.Held) error {
		if !p.selected(h.Key) || p.version != "" && h.Entry.Version != p.version || h.Entry.Forgotten != nil {
			return nil
		}
		if h.Entry.Kind != lake.KindTable && h.Entry.Kind != lake.KindFile && h.Entry.Kind != lake.KindFolder {
			return errNotForgettable.Errorf("%s is a %s: its bytes are not here. Remove it, and delete the original where it is.", lake.DisplayKey(h.Key), h.Entry.Kind)
		}
		t := lake.NewTombstone(h.Key, h.Entry)
		id := t.Key + "\x00" + t.Content
		if _, seen := p.tombstones[id]; !seen {
			if err := f.refusePart(ctx, p, h); err != nil {
				return err
			}
			p.tombstones[id] = t
		}
		if h.Entry.Kind == lake.KindFolder { // what an asset keeps of it as a whole
			return nil
		}
		c := found[t.Key+"\x00"+t.Version]
		if c == nil {
			c = &ForgottenContent{Key: t.Key, Version: t.Version, Kind: t.Kind, Size: h.Entry.Location.Size, Rows: h.Entry.Location.Rows}
			found[t.Key+"\x00"+t.Version] = c
		}
		c.Commits++
		return nil
	})
	if err != nil {
		return p, err
	}
	if len(p.tombstones) == 0 {
		return p, ErrNoTarget.Errorf("no commit has anything of %s that is not forgotten", strings.Join(r.Names, ", "))
	}
	for _, id := range slices.Sorted(maps.Keys(found)) {
		p.Contents = append(p.Contents, *found[id])
	}
	return p, f.planBranches(ctx, p)
}

// selectForgotten understands the names of a request.
func (f *Flow) selectForgotten(ctx context.Context, p *forgetting, names []string) error {
	keys, folders := map[string]bool{}, []string{}
	for _, name := range names {
		base, ref, at := strings.Cut(name, "@")
		if at && len(names) > 1 {
			return errNotForgettable.Errorf("%s: one version at a time, by itself", name)
		}
		if at {
			t, _, err := f.lookFor(ctx, ref, base)
			if err != nil {
				return err
			}
			keys[t.key], p.version = true, t.entry.Version
			continue
		}
		if folder, ok := strings.CutSuffix(name, "/"); ok {
			key := lake.FileKey(folder)
			if _, err := lake.ParseKey(key); err != nil {
				return err
			}
			keys[key] = true
			folders = append(folders, key+"/")
			continue
		}
		valid := false
		var invalid error
		for _, key := range []string{tableKey(name), lake.FileKey(name)} {
			_, err := lake.ParseKey(key)
			invalid = errors.Join(invalid, err)
			if err == nil {
				keys[key], valid = true, true
			}
		}
		if !valid {
			return invalid
		}
	}
	p.selected = func(key string) bool {
		return keys[key] || slices.ContainsFunc(folders, func(folder string) bool { return strings.HasPrefix(key, folder) })
	}
	p.prefixes = slices.Collect(maps.Keys(keys))
	return nil
}

// refusePart refuses to forget one of several things that an asset made: its state has them all.
func (f *Flow) refusePart(ctx context.Context, p *forgetting, h lake.Held) error {
	c, err := f.lake.Commit(ctx, h.Commit)
	if err != nil {
		return err
	}
	t := f.lake.Tree(c.Tree)
	whole := map[string]bool{} // what must go with it
	if path, isFile := strings.CutPrefix(h.Key, lake.FilePrefix); isFile {
		top, _, _ := strings.Cut(path, "/")
		e, err := entryAt(ctx, t, lake.FilePrefix+top)
		if err != nil {
			return err
		}
		if e != nil && e.Kind == lake.KindFolder && !p.selected(lake.FilePrefix+top) {
			whole[lake.DisplayKey(lake.FilePrefix+top)+"/"] = true
		}
	} else if !h.Entry.Location.Slots.IsZero() {
		for ke, err := range t.Scan(ctx, "", "") {
			if err != nil {
				return err
			}
			if ke.Entry.Location.Slots == h.Entry.Location.Slots && !p.selected(ke.Key) {
				whole[lake.DisplayKey(ke.Key)] = true
			}
		}
	}
	if len(whole) == 0 {
		return nil
	}
	names := strings.Join(slices.Sorted(maps.Keys(whole)), " ")
	return errForgetPart.Errorf("%s is a part of what an asset made: forget it with %s", lake.DisplayKey(h.Key), names).
		WithNext("tarn forget " + names + " " + lake.DisplayKey(h.Key))
}

// planBranches finds the branches that have what goes, and what was made from it.
func (f *Flow) planBranches(ctx context.Context, p *forgetting) error {
	derived, steps := map[string]bool{}, map[string]bool{}
	for ref, err := range f.lake.Branches(ctx) {
		if err != nil {
			return err
		}
		head, err := f.lake.Commit(ctx, ref.Commit)
		if err != nil {
			return err
		}
		t := f.lake.Tree(head.Tree)
		here, err := p.on(ctx, t)
		if err != nil {
			return err
		}
		if len(here) == 0 {
			continue
		}
		if p.version != "" {
			return errForgetHead.Errorf("%s has that version of %s now, and what a branch has stays readable. Change or remove it first, or forget all versions.", ref.Name, lake.DisplayKey(here[0].key)).
				WithNext("tarn forget " + lake.DisplayKey(here[0].key))
		}
		p.Branches = append(p.Branches, ref.Name)
		for _, has := range here {
			nodes, err := f.forward(ctx, t, has)
			if err != nil {
				return err
			}
			for _, n := range nodes[1:] {
				derived[n.Name] = true
			}
		}
		if err := f.readersOf(ctx, t, here, steps); err != nil {
			return err
		}
	}
	folders := map[string]bool{} // the state of one says nothing beside its files
	for name := range derived {
		folder, _, _ := strings.Cut(name, "/")
		folders[folder] = folders[folder] || folder != name
	}
	for name := range derived {
		if !folders[name] && !slices.ContainsFunc(p.Contents, func(c ForgottenContent) bool { return lake.DisplayKey(c.Key) == name }) {
			p.Derived = append(p.Derived, name)
		}
	}
	slices.Sort(p.Derived)
	p.steps = slices.Sorted(maps.Keys(steps))
	return nil
}

// on lists what a tree has of it, with the contents that go.
func (p *forgetting) on(ctx context.Context, t lake.Tree) (out []target, err error) {
	for _, prefix := range p.prefixes {
		for ke, err := range t.Scan(ctx, prefix, "") {
			if err != nil {
				return nil, err
			}
			if _, goes := p.tombstones[ke.Key+"\x00"+lake.NewTombstone(ke.Key, ke.Entry).Content]; goes {
				out = append(out, target{ke.Key, &ke.Entry})
			}
		}
	}
	return out, nil
}

// readersOf adds the steps that a tree's definitions let read what goes: also those that failed, and left nothing but a log.
func (f *Flow) readersOf(ctx context.Context, t lake.Tree, here []target, steps map[string]bool) error {
	defs, _, err := f.definitions(ctx, t)
	if err != nil {
		return err
	}
	for i := range defs {
		fn := &defs[i].Function
		for _, has := range here {
			reads := fn.CheckOf != "" && tableKey(fn.CheckOf) == has.key
			for _, in := range fn.Inputs {
				base, _, _ := strings.Cut(in.Glob, "*")
				reads = reads || in.Kind == manifest.InTable && tableKey(in.Table) == has.key ||
					in.Kind == manifest.InFiles && strings.HasPrefix(has.key, lake.FilePrefix+base)
			}
			if reads {
				steps[fn.Name] = true
			}
		}
	}
	return nil
}

// removeForgotten takes what goes off a branch.
func (f *Flow) removeForgotten(ctx context.Context, branch string, info lake.CommitInfo, p *forgetting) error {
	names := map[string]bool{}
	for _, c := range p.Contents {
		names[lake.DisplayKey(c.Key)] = true
	}
	const most = 5
	shown := slices.Sorted(maps.Keys(names))
	if len(shown) > most {
		shown = append(shown[:most], fmt.Sprintf("%d more", len(names)-most))
	}
	info.Message, info.RequestID = "Forget "+strings.Join(shown, ", "), ""
	info.Run = strings.TrimPrefix(branch, runBranch)
	if !f.isRunBranch(branch) {
		info.Run = ""
	}
	_, err := f.Publish(ctx, Publication{Branch: branch, Info: info, Merge: true, Assets: true, Change: func(ctx context.Context, tx *lake.Tx) error {
		here, err := p.on(ctx, f.lake.Tree(tx.Head.Tree))
		for _, has := range here {
			tx.Delete(has.key)
		}
		return err
	}})
	if errors.Is(err, lake.ErrBranchNotFound) { // removed meanwhile
		return nil
	}
	return err
}

// Clean implements lake.Holder: what people and functions wrote into a record may be the data.
func (h *holdings) Clean(data []byte) ([]byte, error) {
	var p memo.Provenance
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, errdef.Newf(errdef.DataLoss, "run.record", "a record is no JSON: %w", err)
	}
	if (p.Statement == "" || p.Statement == forgottenStatement) && len(p.Reported) == 0 {
		return nil, nil
	}
	p.Reported = nil
	if p.Statement != "" {
		p.Statement = forgottenStatement
	}
	return json.Marshal(p)
}

// forgottenStatement stands in place of the SQL that wrote what is forgotten.
const forgottenStatement = "(forgotten)"

// dropForgotten takes away results that read or made what is forgotten, and what their steps said. Without remove it looks
// whether there are any.
func (h *holdings) dropForgotten(ctx context.Context, m *lake.Mark, remove lake.Remover) error {
	d := &dropping{h: h, m: m, remove: remove, versions: map[string]bool{}, steps: map[string]bool{}}
	for _, t := range m.Forgotten() {
		d.versions[t.Version] = true
		for _, name := range t.Steps {
			d.steps[name] = true
		}
		p, err := memo.GetProvenance(ctx, h.lake, t.Provenance)
		if err != nil {
			return err
		}
		if p != nil && p.Asset != "" {
			d.makers = append(d.makers, p.Asset)
			d.steps[p.Asset] = true
		}
	}
	if len(d.versions) == 0 {
		return nil
	}
	if err := errors.Join(h.memo.Rows(ctx, d.result(ctx)), h.memo.Replaced(ctx, d.result(ctx))); err != nil {
		return err
	}
	return d.logs(ctx)
}

type dropping struct {
	h        *holdings
	m        *lake.Mark
	remove   lake.Remover
	versions map[string]bool
	makers   []string
	steps    map[string]bool
}

// drop takes rows away, or says that they are there.
func (d *dropping) drop(ctx context.Context, row meta.Row, write meta.Write) error {
	if d.remove == nil {
		d.m.Leftover()
		return nil
	}
	err := d.remove(ctx, []meta.Condition{meta.At(row.Key, row.Version)}, []meta.Write{write})
	if errors.Is(err, meta.ErrConditionFailed) { // the next mark sees by what it was replaced
		return nil
	}
	return err
}

// result drops the row of a result that has to do with what is forgotten.
func (d *dropping) result(ctx context.Context) func(row meta.Row, frag *memo.Fragment) error {
	return func(row meta.Row, frag *memo.Fragment) error {
		p, err := memo.GetProvenance(ctx, d.h.lake, frag.Provenance)
		if err != nil {
			return err
		}
		about := slices.ContainsFunc(frag.Files, func(file memo.File) bool { return d.versions[file.Ref.Hash.String()] })
		if p != nil {
			read := slices.ContainsFunc(p.Inputs, func(in memo.Source) bool {
				return slices.ContainsFunc(identities(in.Identity), func(v string) bool { return d.versions[v] })
			})
			if read {
				d.steps[p.Asset] = true
			}
			about = about || read || slices.Contains(d.makers, p.Asset)
		}
		if !about {
			return nil
		}
		return d.drop(ctx, row, meta.Delete(row.Key))
	}
}

// identities are the versions that an input's identity names: docs/formats/memo.md.
func identities(identity string) []string {
	return strings.FieldsFunc(identity, func(r rune) bool { return r == ' ' || r == 0 })
}

// logs drops what steps of those names have said, in any run: which of them saw what is forgotten, nobody knows for those
// that failed.
func (d *dropping) logs(ctx context.Context) error {
	for row, err := range d.h.rows.Scan(ctx, meta.Prefix(d.h.prefix+"step/")) {
		if err != nil {
			return fmt.Errorf("scan steps: %w", err)
		}
		step, err := decodeStep(row)
		if err != nil {
			return err
		}
		dropped := step.Error != nil && errors.Is(step.Error, errLogForgotten)
		if !d.steps[step.Name] || !step.State.Final() || step.Log == nil && (step.Error == nil || dropped) {
			continue
		}
		step.Log = nil
		if step.Error != nil {
			step.Error = errLogForgotten
		}
		b, err := json.Marshal(step)
		if err == nil {
			err = d.drop(ctx, row, meta.Set(row.Key, b))
		}
		if err == nil {
			err = d.events(ctx, step)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *dropping) events(ctx context.Context, step *Step) error {
	for row, err := range d.h.rows.Scan(ctx, meta.Prefix(d.h.runs.eventPrefix(step.Run))) {
		if err != nil {
			return fmt.Errorf("read events of %s: %w", step.Run, err)
		}
		if err := d.drop(ctx, row, meta.Delete(row.Key)); err != nil {
			return err
		}
	}
	return nil
}
