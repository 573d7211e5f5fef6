package flow

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/graph"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/flow/memo"
	"tarn.dev/tarn/internal/lake"
)

// work is one step made ready: its inputs, its items, and which of them have a result already.
type work struct {
	node   *graph.Node
	env    environment // zero for SQL and commands
	params map[string]json.RawMessage
	tables map[string]*value      // by parameter
	files  map[string][]fileValue // by parameter, but for the item input
	locals map[string][]string    // by parameter: project files
	common memo.Components        // of every item; Item and the item's input are missing
	items  []invocation
	prior  map[string]memo.Key // slot -> key on the target, before this run
	state  *lake.Entry         // of the asset on the base, nil if it is new
	why    string
}

// invocation is one item with its key.
type invocation struct {
	item
	comps    memo.Components
	key      memo.Key
	fragment *memo.Fragment // nil: not known, or not needed
	reused   bool           // it need not run
}

func (w *work) missing() (out []*invocation) {
	for i := range w.items {
		if !w.items[i].reused {
			out = append(out, &w.items[i])
		}
	}
	return out
}

func (w *work) reused() (n int) {
	for _, inv := range w.items {
		if inv.reused {
			n++
		}
	}
	return n
}

// demand is what a run asks of a step.
type demand struct {
	run     string
	params  map[string]string
	noCache bool         // what has a result is made again, and the new one counts from then on
	apart   bool         // a rerun: results are compared, and never remembered
	say     func(string) // tells whoever waits what takes long
}

// unheard is for calls whose answer has no place for what takes long.
func unheard(string) {}

// prepare resolves a step's inputs in w, computes its items' keys and looks them up. A nil value of an
// input means that a parent has not run yet.
func (f *Flow) prepare(ctx context.Context, w *world, c *code, n *graph.Node, env environment, d demand) (*work, error) {
	wk := &work{
		node: n, env: env, tables: map[string]*value{}, files: map[string][]fileValue{}, locals: map[string][]string{},
		prior: map[string]memo.Key{},
	}
	var err error
	if wk.params, err = paramsOf(n.Function, d.params); err != nil {
		return nil, err
	}
	if err := f.components(c, wk, d); err != nil {
		return nil, err
	}
	split, err := f.inputs(ctx, w, c, wk)
	if err != nil {
		return nil, err
	}
	if err := f.priorState(ctx, w, wk); err != nil {
		return nil, err
	}
	for _, it := range split {
		comps := wk.common
		comps.Inputs = slices.Clone(comps.Inputs)
		comps.Item = it.id
		if in := n.ItemInput(); in != nil {
			comps.Inputs = append(comps.Inputs, memo.InputID{Param: in.Param, Kind: string(in.Kind), Identity: filesIdentity(it.files)})
		}
		wk.items = append(wk.items, invocation{item: it, comps: comps, key: comps.Key()})
	}
	if err := f.lookUp(ctx, wk, d); err != nil {
		return nil, err
	}
	return wk, f.explain(ctx, wk, d)
}

func filesIdentity(files []fileValue) string {
	ids := make([]string, len(files))
	for i, v := range files {
		ids[i] = v.identity()
	}
	return memo.FilesIdentity(ids)
}

// components fills what the key says of code, environment and parameters.
func (f *Flow) components(c *code, wk *work, d demand) error {
	n := wk.node
	comps := memo.Components{Language: string(n.Language), Semantics: engineSemantics}
	if n.Language != manifest.SQL {
		comps.Semantics = runnerSemantics
		comps.Platform = runtime.GOOS + "-" + runtime.GOARCH
	}
	if n.Language == manifest.Python {
		comps.Entry, comps.Lock, comps.Python, comps.Platform = n.Qualname, wk.env.lock.ID, wk.env.lock.Python, wk.env.lock.Platform
	}
	for _, p := range n.Code.Parts {
		comps.Code = append(comps.Code, memo.CodePart{Module: p.Module, Name: p.Name, Hash: p.Hash})
	}
	for name, v := range wk.params {
		canon, err := canonicalJSON(v)
		if err != nil {
			return ErrParam.Errorf("parameter %s of %s: %w", name, n.Name, err)
		}
		comps.Params = append(comps.Params, memo.NameValue{Name: name, Value: string(canon)})
	}
	named := map[string]bool{}
	addFiles := func(glob string) {
		for _, p := range c.globs[glob] {
			if !named[p] && c.snap.Hash(p) != "" {
				named[p] = true
				comps.Files = append(comps.Files, memo.NameValue{Name: p, Value: c.snap.Hash(p)})
			}
		}
	}
	for _, name := range n.Code.Files {
		addFiles(name)
	}
	for _, in := range n.Inputs {
		if in.Kind == manifest.InLocal {
			addFiles(in.Glob)
			wk.locals[in.Param] = c.globs[in.Glob]
		}
	}
	comps.Secrets = n.Secrets()
	switch o := n.Options; {
	case o.Cache != nil && !*o.Cache:
		comps.Params = append(comps.Params, memo.NameValue{Name: "\x00run", Value: d.run})
	case o.Fresh > 0:
		age := int64(o.Fresh * float64(time.Second))
		comps.Params = append(comps.Params, memo.NameValue{Name: "\x00fresh", Value: strconv.FormatInt(now().UnixNano()/age, 10)})
	}
	wk.common = comps
	return nil
}

// inputs resolves every input and cuts the work into items.
func (f *Flow) inputs(ctx context.Context, w *world, c *code, wk *work) ([]item, error) {
	n := wk.node
	split := []item{{}}
	ids := &wk.common.Inputs
	for _, in := range n.Inputs {
		switch in.Kind {
		case manifest.InTable:
			v, err := w.table(ctx, in.Table, in.Ref)
			if err != nil {
				return nil, err
			}
			if v == nil {
				return nil, f.notMade(n, in, w)
			}
			if err := f.checkColumns(ctx, n, in, v); err != nil {
				return nil, err
			}
			wk.tables[in.Param] = v
			*ids = append(*ids, memo.InputID{Param: in.Param, Kind: string(in.Kind), Identity: v.identity()})
		case manifest.InFiles:
			files, err := w.match(ctx, in.Glob)
			if err != nil {
				return nil, err
			}
			if in.Each != "" || in.GroupBy != "" {
				if split, err = itemsOf(n.Function, in, files); err != nil {
					return nil, err
				}
				continue
			}
			wk.files[in.Param] = files
			*ids = append(*ids, memo.InputID{Param: in.Param, Kind: string(in.Kind), Identity: filesIdentity(files)})
		}
	}
	return split, nil
}

// notMade is the error for an input whose asset exists in the code, is not selected, and never ran here.
func (f *Flow) notMade(n *graph.Node, in manifest.Input, w *world) error {
	return graph.ErrUnknownInput.Errorf("%s reads %s, which has not been made yet at %s.", n.Name, in.Table, w.commit.ID.String()[:shortID]).
		WithNext("tarn run +" + n.Name)
}

const shortID = 7

// checkColumns refuses a column that the table does not have, before anything runs.
func (f *Flow) checkColumns(ctx context.Context, n *graph.Node, in manifest.Input, v *value) error {
	if len(in.Columns) == 0 {
		return nil
	}
	schema, err := f.schemaOf(ctx, v)
	if err != nil {
		return err
	}
	var have []string
	for _, field := range schema.Fields() {
		have = append(have, field.Name)
	}
	for _, col := range in.Columns {
		if !slices.Contains(have, col) {
			return noColumn(n, col, in.Table, fmt.Sprintf("%s:%d", n.File, max(in.Line, n.Line)), have)
		}
	}
	return nil
}

func (f *Flow) schemaOf(ctx context.Context, v *value) (*arrow.Schema, error) {
	if v.entry != nil {
		return f.tables.Schema(ctx, *v.entry)
	}
	path, err := f.blobs.File(ctx, v.arrow[0])
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open fragment: %w", err)
	}
	defer file.Close()
	rd, err := ipc.NewFileReader(file)
	if err != nil {
		return nil, errdef.Newf(errdef.DataLoss, "run.fragment", "fragment of %s: %w", v.name, err)
	}
	defer rd.Close()
	return rd.Schema(), nil
}

// priorState reads what the asset is on the base: its slots.
func (f *Flow) priorState(ctx context.Context, w *world, wk *work) error {
	if wk.node.Kind != manifest.Asset {
		return nil
	}
	err := f.refuseClients(ctx, w.tree, wk.node.Function)
	if err != nil {
		return err
	}
	if wk.state, err = w.entry(ctx, stateKey(wk.node.Function)); err != nil || wk.state == nil || wk.state.Location.Slots.IsZero() {
		return err
	}
	slots, err := f.readSlots(ctx, wk.state.Location.Slots)
	if err != nil {
		return err
	}
	for id, s := range slots {
		wk.prior[id] = s.Key
	}
	return nil
}

// stateKey is the tree key whose entry holds an asset's slots: its first table, else its folder.
func stateKey(fn *manifest.Function) string {
	if len(fn.Outputs) > 0 {
		return tableKey(fn.Outputs[0])
	}
	return lake.FileKey(fn.Name)
}

// slotOf is the slot of an item's fragment.
func slotOf(fn *manifest.Function, inv *invocation) string {
	switch {
	case inv.id != "":
		return inv.id
	case fn.Mode == manifest.Append || fn.Mode == manifest.Merge:
		return string(inv.key)
	}
	return slotAll
}

const slotAll = "all"

// lookUp marks the items that have a result. An item whose key is in the asset's slot already needs no
// look-up at all: one new file among 100,000 costs one.
func (f *Flow) lookUp(ctx context.Context, wk *work, d demand) error {
	if d.noCache {
		return nil
	}
	for i := range wk.items {
		inv := &wk.items[i]
		if wk.node.Kind == manifest.Asset && wk.prior[slotOf(wk.node.Function, inv)] == inv.key {
			inv.reused = true
			continue
		}
		frag, err := f.memo.Lookup(ctx, inv.key)
		if err != nil {
			return err
		}
		if frag != nil {
			inv.fragment, inv.reused = frag, true
		}
	}
	return nil
}

// explain says in one phrase why the step runs or not.
func (f *Flow) explain(ctx context.Context, wk *work, d demand) error {
	missing := wk.missing()
	switch {
	case len(missing) == 0 && len(wk.items) == 0:
		wk.why = "no items"
		return nil
	case len(missing) == 0:
		wk.why = "same code, environment, parameters and inputs as before"
		return nil
	case d.apart:
		wk.why = "a rerun"
		return nil
	case d.noCache:
		wk.why = "--no-cache"
		return nil
	case wk.node.Function.CheckOf != "":
		wk.why = "not asked of these rows before"
		return nil
	case wk.state == nil:
		wk.why = "never ran here"
		return nil
	}
	if in := wk.node.ItemInput(); in != nil && len(missing) < len(wk.items) {
		wk.why = fmt.Sprintf("%d of %d items are new or changed: %s", len(missing), len(wk.items), firstIDs(missing))
		return nil
	}
	prov := wk.state.Location.Provenance
	if key, ok := wk.prior[slotOf(wk.node.Function, missing[0])]; ok { // of this item, not of the last that was made
		frag, err := f.memo.Lookup(ctx, key)
		if err != nil {
			return err
		}
		if frag != nil {
			prov = frag.Provenance
		}
	}
	before, err := memo.GetProvenance(ctx, f.lake, prov)
	if err != nil {
		return err
	}
	wk.why = "its result is no longer kept"
	if before == nil || before.Components == nil {
		wk.why = "it was made in another way before"
		return nil
	}
	name := func(param string) string {
		if v := wk.tables[param]; v != nil {
			return v.name
		}
		return param
	}
	if why := memo.Explain(*before.Components, missing[0].comps, name); why != "" {
		wk.why = why
	}
	return nil
}

func firstIDs(invs []*invocation) string {
	const most = 3
	var ids []string
	for i, inv := range invs {
		if i == most {
			ids = append(ids, "...")
			break
		}
		ids = append(ids, inv.id)
	}
	return strings.Join(ids, ", ")
}
