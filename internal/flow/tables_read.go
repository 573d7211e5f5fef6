package flow

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"

	"tarn.dev/tarn/internal/catalog"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/lake"
)

// ListTables lists the tables of a ref, without those that keep offenders of checks.
func (f *Flow) ListTables(ctx context.Context, ref string) ([]lake.KeyEntry, error) {
	commit, err := f.lake.Resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	var out []lake.KeyEntry
	for ke, err := range f.lake.Tree(commit.Tree).Scan(ctx, lake.TablePrefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list tables: %w", err)
		}
		if !strings.HasPrefix(lake.DisplayKey(ke.Key), offenderNamespace+".") {
			out = append(out, ke)
		}
	}
	return out, nil
}

// tableAt finds a table; name may carry its ref.
func (f *Flow) tableAt(ctx context.Context, ref, name string) (lake.KeyEntry, lake.Commit, error) {
	if table, at, ok := strings.Cut(name, "@"); ok {
		name, ref = table, at
	}
	commit, err := f.lake.Resolve(ctx, ref)
	if err != nil {
		return lake.KeyEntry{}, commit, err
	}
	t := f.lake.Tree(commit.Tree)
	e, err := entryAt(ctx, t, tableKey(name))
	if err != nil {
		return lake.KeyEntry{}, commit, err
	}
	if e == nil {
		names, err := tableNames(ctx, t)
		if err != nil {
			return lake.KeyEntry{}, commit, err
		}
		return lake.KeyEntry{}, commit, NoTable(name, ref, names)
	}
	return lake.KeyEntry{Key: tableKey(name), Entry: *e}, commit, nil
}

// TableInfo describes a table.
type TableInfo struct {
	lake.KeyEntry
	Schema       *arrow.Schema
	RowKey       []string
	Checks, Warn []string
	Asset        string // the function that makes it, if one does
	Description  string
	Metadata     string // where other programs find its Iceberg metadata; empty for a linked table
}

// DescribeTable tells what a ref knows of a table.
func (f *Flow) DescribeTable(ctx context.Context, ref, name string) (*TableInfo, error) {
	ke, commit, err := f.tableAt(ctx, ref, name)
	if err != nil {
		return nil, err
	}
	info := &TableInfo{KeyEntry: ke}
	if !catalog.IsLinked(ke.Entry) {
		info.Metadata = f.blobs.URI(ke.Entry.Location.Table)
	}
	if info.Schema, err = f.tables.Schema(ctx, ke.Entry); err != nil {
		return nil, err
	}
	if info.RowKey, err = catalog.Key(ke.Entry); err != nil {
		return nil, err
	}
	t := f.lake.Tree(commit.Tree)
	rules, err := f.rulesAt(ctx, t)
	if err != nil {
		return nil, err
	}
	for _, r := range rules {
		switch {
		case tableKey(r.table) != ke.Key:
		case r.severity == manifest.Warn:
			info.Warn = append(info.Warn, r.text)
		default:
			info.Checks = append(info.Checks, r.text)
		}
	}
	if ke.Entry.Location.Slots.IsZero() {
		return info, nil
	}
	defs, _, err := f.definitions(ctx, t)
	if err != nil {
		return nil, err
	}
	for _, d := range defs {
		if slices.ContainsFunc(d.Function.Outputs, func(o string) bool { return tableKey(o) == ke.Key }) {
			info.Asset, info.Description = d.Function.Name, d.Function.Description
		}
	}
	return info, nil
}

// TableVersion is a table as one commit left it; Entry is nil when the commit removed it.
type TableVersion struct {
	Commit lake.Commit
	Entry  *lake.Entry
}

// TableHistory lists the commits that changed a table, newest first; limit 0 means all. The table may be
// gone: its history stays.
func (f *Flow) TableHistory(ctx context.Context, ref, name string, limit int) ([]TableVersion, error) {
	if table, at, ok := strings.Cut(name, "@"); ok {
		name, ref = table, at
	}
	commit, err := f.lake.Resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	key := tableKey(name)
	var out []TableVersion
	for c, err := range f.lake.Log(ctx, commit.ID, lake.LogOptions{Key: key, Limit: limit}) {
		if err != nil {
			return nil, err
		}
		e, err := entryAt(ctx, f.lake.Tree(c.Tree), key)
		if err != nil {
			return nil, err
		}
		out = append(out, TableVersion{Commit: c, Entry: e})
	}
	if len(out) == 0 {
		_, _, err := f.tableAt(ctx, ref, name)
		return nil, err
	}
	return out, nil
}

// RemoveTables removes tables as one commit.
func (f *Flow) RemoveTables(ctx context.Context, branch string, info lake.CommitInfo, dir string, names []string) (Published, error) {
	if len(names) == 0 {
		return Published{}, ErrTableName.Errorf("no table was named")
	}
	if info.Message == "" {
		info.Message = "Remove " + strings.Join(names, ", ")
	}
	return f.Publish(ctx, Publication{Branch: branch, Info: info, Dir: dir, Change: func(ctx context.Context, tx *lake.Tx) error {
		t := f.lake.Tree(tx.Head.Tree)
		for _, name := range names {
			e, err := entryAt(ctx, t, tableKey(name))
			if err != nil {
				return err
			}
			if e == nil {
				there, err := tableNames(ctx, t)
				if err != nil {
					return err
				}
				return NoTable(name, branch, there)
			}
			tx.Delete(tableKey(name))
		}
		return nil
	}})
}

// RelocateTables lets the metadata of tables name their files where they lie now, as one commit: of all, or of those that are
// named. It returns the ones whose metadata named another place.
func (f *Flow) RelocateTables(ctx context.Context, branch string, info lake.CommitInfo, dir string, names []string) (Published, []string, error) {
	if info.Message == "" {
		info.Message = "Relocate tables"
	}
	var moved []string
	pub, err := f.Publish(ctx, Publication{Branch: branch, Info: info, Dir: dir, Change: func(ctx context.Context, tx *lake.Tx) (err error) {
		t := f.lake.Tree(tx.Head.Tree)
		chosen := names
		if len(chosen) == 0 {
			if chosen, err = tableNames(ctx, t); err != nil {
				return err
			}
		}
		moved = nil
		for _, name := range chosen {
			e, err := entryAt(ctx, t, tableKey(name))
			if err == nil && e == nil {
				_, _, err = f.tableAt(ctx, branch, name)
			}
			if err != nil {
				return err
			}
			there, err := f.tables.Relocate(ctx, name, *e)
			if err != nil {
				return err
			}
			if there.Location.Table != e.Location.Table {
				moved = append(moved, name)
				tx.Put(tableKey(name), there)
			}
		}
		return nil
	}})
	return pub, moved, err
}

// DiffTable compares a table's rows on two refs. It may be missing on one of them.
func (f *Flow) DiffTable(ctx context.Context, from, to, name string) (*catalog.RowDiff, error) {
	var sides [2]*lake.Entry
	for i, ref := range []string{from, to} {
		commit, err := f.lake.Resolve(ctx, ref)
		if err != nil {
			return nil, err
		}
		if sides[i], err = entryAt(ctx, f.lake.Tree(commit.Tree), tableKey(name)); err != nil {
			return nil, err
		}
	}
	if sides[0] == nil && sides[1] == nil {
		_, _, err := f.tableAt(ctx, to, name)
		return nil, err
	}
	return f.tables.DiffRows(ctx, name, sides[0], sides[1])
}
