package flow

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/flow/project"
	"tarn.dev/tarn/internal/image"
	"tarn.dev/tarn/internal/lake"
)

// Definition is what the history holds under def/NAME: the code that is deployed on a branch.
type Definition struct {
	Function manifest.Function `json:"function"`
	Lock     *image.Lock       `json:"lock,omitempty"`
	Packages []string          `json:"packages,omitempty"` // as asked for, for messages
	Snapshot lake.Hash         `json:"snapshot"`
}

// Rules is what the history holds under def/tarn.toml: what holds for tables and branches, whoever
// writes.
type Rules struct {
	Protected []string                      `json:"protected,omitempty"`
	Tables    map[string]project.TableRules `json:"tables,omitempty"`
}

const rulesName = project.ConfigFile

func rulesOf(c project.Config) Rules { return Rules{Protected: c.Protected, Tables: c.Table} }

// version is the identity of a definition: where the rest of the project changed does not count.
func (d Definition) version() (string, error) {
	d.Snapshot = lake.Hash{}
	d.Function.Line = 0
	return jsonHash(d)
}

func jsonHash(v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("encode definition: %w", err)
	}
	return fmt.Sprintf("%x", blake3.Sum256(b)), nil
}

// defEntry makes the entry of a definition or of rules, or nil when have is the same already. The object is
// remembered: the gate reads it before the batch is durable.
func (f *Flow) defEntry(ctx context.Context, b *lake.Batch, have *lake.Entry, version string, body any) (*lake.Entry, error) {
	if have != nil && have.Version == version {
		return nil, nil
	}
	data, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode definition: %w", err)
	}
	obj, err := b.Put(ctx, lake.TypeDef, data)
	if err != nil {
		return nil, fmt.Errorf("store definition: %w", err)
	}
	f.objects.Add(obj, data)
	return &lake.Entry{Kind: lake.KindDef, Version: version, Location: lake.Location{Object: obj, Size: int64(len(data))}}, nil
}

func (f *Flow) readDef(ctx context.Context, e lake.Entry, into any) error {
	data, ok := f.objects.Get(e.Location.Object)
	if !ok {
		var err error
		if data, err = f.lake.Get(ctx, lake.TypeDef, e.Location.Object); err != nil {
			return fmt.Errorf("read definition: %w", err)
		}
		f.objects.Add(e.Location.Object, data)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return errdef.Newf(errdef.DataLoss, "run.definition", "definition %s: %w", e.Location.Object, err)
	}
	return nil
}

// Definition returns what a ref holds under def/name, or nil.
func (f *Flow) Definition(ctx context.Context, t lake.Tree, name string) (*Definition, error) {
	e, err := entryAt(ctx, t, lake.DefKey(name))
	if err != nil || e == nil {
		return nil, err
	}
	var d Definition
	return &d, f.readDef(ctx, *e, &d)
}

// definitions are all of a tree.
func (f *Flow) definitions(ctx context.Context, t lake.Tree) ([]Definition, Rules, error) {
	var out []Definition
	var rules Rules
	for ke, err := range t.Scan(ctx, lake.DefPrefix, "") {
		if err != nil {
			return nil, rules, fmt.Errorf("list definitions: %w", err)
		}
		if lake.DisplayKey(ke.Key) == rulesName {
			if err := f.readDef(ctx, ke.Entry, &rules); err != nil {
				return nil, rules, err
			}
			continue
		}
		var d Definition
		if err := f.readDef(ctx, ke.Entry, &d); err != nil {
			return nil, rules, err
		}
		out = append(out, d)
	}
	return out, rules, nil
}
