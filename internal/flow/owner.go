package flow

import (
	"context"
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/lake"
)

// Errors about what has two kinds of writers.
var (
	// ErrAssetOwned refuses a client's change of what an asset makes.
	ErrAssetOwned = errdef.New(errdef.FailedPrecondition, "asset.owned", "an asset makes it")
	// errClientOwned refuses an asset of the name of what clients have written.
	errClientOwned = errdef.New(errdef.FailedPrecondition, "run.not_an_asset", "clients have written what the asset would make")
)

// owners tells which asset makes what: by the key of a table, or of a folder. What a client wrote there
// would be gone with the asset's next run, and what it removed would be missed by none.
type owners map[string]*manifest.Function

func (f *Flow) owners(ctx context.Context, t lake.Tree) (owners, error) {
	defs, _, err := f.definitions(ctx, t)
	if err != nil {
		return nil, err
	}
	out := owners{}
	for i := range defs {
		fn := &defs[i].Function
		if fn.Kind != manifest.Asset {
			continue
		}
		for _, table := range fn.Outputs {
			out[tableKey(table)] = fn
		}
		if fn.WritesFiles() {
			out[lake.FileKey(fn.Name)] = fn
		}
	}
	return out, nil
}

// refuse returns ErrAssetOwned for a key that an asset makes.
func (o owners) refuse(key, branch string) error {
	place := key
	if path, ok := strings.CutPrefix(key, lake.FilePrefix); ok {
		folder, _, _ := strings.Cut(path, "/")
		place = lake.FilePrefix + folder
	}
	fn := o[place]
	if fn == nil {
		return nil
	}
	name := lake.DisplayKey(key)
	return ErrAssetOwned.Errorf("%s is made by the asset %s (%s), so only its runs change it. Write under another name, change the asset and run it, or take the asset off with all that it made.", name, fn.Name, fn.File).
		WithDetail("asset", fn.Name).WithDetail("name", name).
		WithNext("tarn run "+fn.Name, "tarn asset rm "+fn.Name+" --into "+branch)
}

// Writable returns what refuses the keys that an asset of the branch makes, before a client's bytes
// travel. Publish refuses them again, on the head that it finds.
func (f *Flow) Writable(ctx context.Context, branch string) (func(key string) error, error) {
	head, err := f.lake.Resolve(ctx, branch)
	if err != nil {
		return nil, err
	}
	o, err := f.owners(ctx, f.lake.Tree(head.Tree))
	return func(key string) error { return o.refuse(key, branch) }, err
}

func (f *Flow) refuseOwned(ctx context.Context, t lake.Tree, branch, key string) error {
	o, err := f.owners(ctx, t)
	if err != nil {
		return err
	}
	return o.refuse(key, branch)
}

// refuseClients stops an asset that would make what clients have written, before it runs.
func (f *Flow) refuseClients(ctx context.Context, t lake.Tree, fn *manifest.Function) error {
	for _, name := range fn.Outputs {
		e, err := entryAt(ctx, t, tableKey(name))
		if err != nil {
			return err
		}
		if e != nil && e.Location.Slots.IsZero() {
			return errClientOwned.Errorf("the table %s was written by a client, and %s:%d makes an asset of that name. Rename one, or: tarn table rm %s",
				name, fn.File, fn.Line, name)
		}
	}
	if !fn.WritesFiles() {
		return nil
	}
	if d, err := f.Definition(ctx, t, fn.Name); err != nil || d != nil && d.Function.WritesFiles() {
		return err
	}
	file, err := entryAt(ctx, t, lake.FileKey(fn.Name))
	if err != nil {
		return err
	}
	found := ""
	if file != nil {
		found = fn.Name
	}
	for ke, err := range t.Scan(ctx, lake.FileKey(fn.Name)+"/", "") {
		if err != nil {
			return err
		}
		found = lake.DisplayKey(ke.Key)
		break
	}
	if found == "" {
		return nil
	}
	return errClientOwned.Errorf("%s was written by a client, and %s:%d makes an asset whose files are %s/. Rename one, or: tarn file rm %s",
		found, fn.File, fn.Line, fn.Name, found)
}
