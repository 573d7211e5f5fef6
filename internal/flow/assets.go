package flow

import (
	"context"
	"slices"
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/flow/memo"
	"tarn.dev/tarn/internal/lake"
)

// ErrNoAsset is an asset that a ref does not have.
var ErrNoAsset = errdef.New(errdef.NotFound, "asset.not_found", "no such asset")

// Asset is a function whose result is published, as a ref has it.
type Asset struct {
	Function manifest.Function
	Makes    []string // tables, and folders with a slash at the end
	Reads    []string // tables, and globs of files
	Rows     int64
	Files    int64
	Run      string // that made what is there
	keys     []string
}

// Assets lists the assets of a ref, parents first. With a name: that one, all that it reads, and all that
// read it.
func (f *Flow) Assets(ctx context.Context, ref, name string) ([]Asset, error) {
	commit, err := f.lake.Resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	all, err := f.assetsIn(ctx, f.lake.Tree(commit.Tree))
	if err != nil || name == "" {
		return all, err
	}
	if _, err := assetNamed(all, name, ref); err != nil {
		return nil, err
	}
	up, down := map[string]bool{name: true}, map[string]bool{name: true} // parents come first: one pass each way is enough
	for i := len(all) - 1; i >= 0; i-- {
		if slices.ContainsFunc(all, func(c Asset) bool { return up[c.Function.Name] && feeds(all[i], c) }) {
			up[all[i].Function.Name] = true
		}
	}
	for i := range all {
		if slices.ContainsFunc(all, func(p Asset) bool { return down[p.Function.Name] && feeds(p, all[i]) }) {
			down[all[i].Function.Name] = true
		}
	}
	return slices.DeleteFunc(all, func(a Asset) bool { return !up[a.Function.Name] && !down[a.Function.Name] }), nil
}

func assetNamed(all []Asset, name, ref string) (Asset, error) {
	var names []string
	for _, a := range all {
		if a.Function.Name == name {
			return a, nil
		}
		names = append(names, a.Function.Name)
	}
	return Asset{}, ErrNoAsset.Errorf("no asset '%s' on %s. %sAssets on %s: %s.", name, ref, manifest.DidYouMean(name, names), ref, manifest.List(names))
}

// feeds reports whether child reads what parent makes.
func feeds(parent, child Asset) bool {
	return parent.Function.Name != child.Function.Name && slices.ContainsFunc(child.Reads, func(r string) bool {
		return slices.ContainsFunc(parent.Makes, func(m string) bool {
			return m == r || strings.HasSuffix(m, "/") && strings.HasPrefix(r, m)
		})
	})
}

func (f *Flow) assetsIn(ctx context.Context, t lake.Tree) ([]Asset, error) {
	defs, _, err := f.definitions(ctx, t)
	if err != nil {
		return nil, err
	}
	var all []Asset
	for i := range defs {
		if defs[i].Function.Kind != manifest.Asset {
			continue
		}
		a, err := f.assetOf(ctx, t, defs[i].Function)
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return parentsFirst(all), nil
}

func (f *Flow) assetOf(ctx context.Context, t lake.Tree, fn manifest.Function) (Asset, error) {
	a := Asset{Function: fn}
	for _, in := range fn.Inputs {
		switch in.Kind {
		case manifest.InTable:
			a.Reads = append(a.Reads, in.Table)
		case manifest.InFiles:
			a.Reads = append(a.Reads, in.Glob)
		}
	}
	var prov lake.Hash
	own := func(key string) (rows int64, err error) {
		e, err := entryAt(ctx, t, key)
		if err != nil || e == nil {
			return 0, err
		}
		a.keys, prov = append(a.keys, key), e.Location.Provenance
		return e.Location.Rows, nil
	}
	for _, out := range fn.Outputs {
		a.Makes = append(a.Makes, out)
		rows, err := own(tableKey(out))
		if err != nil {
			return a, err
		}
		a.Rows += rows
	}
	if fn.WritesFiles() {
		a.Makes = append(a.Makes, fn.Name+"/")
		if _, err := own(lake.FileKey(fn.Name)); err != nil { // the folder's state
			return a, err
		}
		for ke, err := range t.Scan(ctx, lake.FileKey(fn.Name)+"/", "") {
			if err != nil {
				return a, err
			}
			a.keys, prov = append(a.keys, ke.Key), ke.Entry.Location.Provenance
			a.Files++
		}
	}
	p, err := memo.GetProvenance(ctx, f.lake, prov)
	if err != nil {
		return a, err
	}
	if p != nil {
		a.Run = p.Run
	}
	return a, nil
}

// parentsFirst orders assets; ties are by name, and what is in a cycle goes last.
func parentsFirst(all []Asset) []Asset {
	var out []Asset
	placed := map[string]bool{}
	for len(out) < len(all) {
		before := len(out)
		for _, a := range all {
			if placed[a.Function.Name] || slices.ContainsFunc(all, func(p Asset) bool { return !placed[p.Function.Name] && feeds(p, a) }) {
				continue
			}
			placed[a.Function.Name] = true
			out = append(out, a)
		}
		if len(out) == before {
			for _, a := range all {
				if !placed[a.Function.Name] {
					out = append(out, a)
				}
			}
		}
	}
	return out
}

// RemoveAssets takes what assets made, and their definitions, off a branch.
func (f *Flow) RemoveAssets(ctx context.Context, branch string, info lake.CommitInfo, names []string) (Published, []string, error) {
	pub, err := f.Publish(ctx, Publication{Branch: branch, Info: info, Assets: true, Change: func(ctx context.Context, tx *lake.Tx) error {
		t := f.lake.Tree(tx.Head.Tree)
		all, err := f.assetsIn(ctx, t)
		if err != nil {
			return err
		}
		defs, _, err := f.definitions(ctx, t)
		if err != nil {
			return err
		}
		for _, name := range names {
			a, err := assetNamed(all, name, branch)
			if err != nil {
				return err
			}
			for _, key := range a.keys {
				tx.Delete(key)
			}
			tx.Delete(lake.DefKey(name))
			for i := range defs { // checks of it have nothing to judge any more
				if fn := &defs[i].Function; fn.Kind == manifest.Check && (fn.CheckOf == name || slices.Contains(a.Makes, fn.CheckOf)) {
					tx.Delete(lake.DefKey(fn.Name))
				}
			}
		}
		return nil
	}})
	if err != nil {
		return pub, nil, err
	}
	changes, err := f.Changes(ctx, pub)
	var removed []string
	for _, c := range changes {
		if c.After == nil && c.Before.Kind != lake.KindDef {
			removed = append(removed, lake.DisplayKey(c.Key))
		}
	}
	return pub, removed, err
}
