package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/near"
	"tarn.dev/tarn/internal/lake"
)

// errNoEntry is returned for a name that a commit does not have.
var errNoEntry = errdef.New(errdef.NotFound, "server.no_entry", "no such table or file")

// maxSuggestions bounds how many names are looked at for one that was perhaps meant.
const maxSuggestions = 2000

// splitRef takes NAME@REF apart at the last @ that does not begin the @{time} of a ref.
func splitRef(name string) (base, ref string, ok bool) {
	for i := len(name) - 1; i > 0; i-- {
		if name[i] == '@' && i+1 < len(name) && name[i+1] != '{' {
			return name[:i], name[i+1:], true
		}
	}
	return name, "", false
}

// inCommit calls find with the commit of ref and name; when it finds nothing and name has an @, with
// those of NAME@REF. A file's own name may hold an @ (icon@2x.png), so the whole name goes first.
func inCommit(ctx context.Context, l *lake.Lake, ref, name string, find func(c lake.Commit, name, ref string) error) error {
	c, err := l.Resolve(ctx, ref)
	if err != nil {
		return err
	}
	missing := find(c, name, ref)
	base, at, ok := splitRef(name)
	if missing == nil || !ok || errdef.CodeOf(missing) != errdef.NotFound && errdef.CodeOf(missing) != errdef.InvalidArgument {
		return missing
	}
	c, err = l.Resolve(ctx, at)
	if errors.Is(err, lake.ErrInvalidRef) {
		return missing
	}
	if err != nil {
		return err
	}
	return find(c, base, at)
}

// candidates are the keys that a name may stand for, the likeliest first. The error says why there are
// none.
func candidates(name string) (keys []string, err error) {
	try := func(key string) {
		if _, invalid := lake.ParseKey(key); invalid == nil {
			keys = append(keys, key)
		} else if err == nil {
			err = invalid
		}
	}
	path := strings.TrimPrefix(strings.TrimPrefix(name, "./"), "/")
	try(lake.FileKey(path))
	if !strings.Contains(name, "/") {
		try(lake.TableKey(lake.DefaultNamespace, name))
		if i := strings.LastIndexByte(name, '.'); i > 0 {
			try(lake.TableKey(name[:i], name[i+1:]))
		}
		try(lake.DefKey(name))
	}
	try(name)
	if len(keys) > 0 {
		return keys, nil
	}
	return nil, err
}

// entryAt finds what a name stands for in a tree. Tables come before files: they are named in SQL.
func entryAt(ctx context.Context, t lake.Tree, name string) (lake.KeyEntry, bool, error) {
	keys, err := candidates(name)
	if err != nil {
		return lake.KeyEntry{}, false, err
	}
	var found lake.KeyEntry
	ok := false
	for _, key := range keys {
		e, here, err := t.Get(ctx, key)
		if err != nil {
			return lake.KeyEntry{}, false, err
		}
		if here && (!ok || e.Kind == lake.KindTable) {
			found, ok = lake.KeyEntry{Key: key, Entry: e}, true
		}
	}
	return found, ok, nil
}

// noEntry says that a name is missing, with the nearest one of the same folder or kind, or of others.
func noEntry(ctx context.Context, t lake.Tree, prefix, what, name, ref string, others ...string) error {
	shown := slices.Clone(others)
	for ke, err := range t.Scan(ctx, prefix, "") {
		if err != nil || len(shown) >= maxSuggestions {
			break // a suggestion is a courtesy
		}
		shown = append(shown, lake.DisplayKey(ke.Key))
	}
	text := fmt.Sprintf("no %s %s on %s", what, name, ref)
	if best := near.Nearest(name, shown); best != "" {
		return errNoEntry.Errorf("%s. Did you mean %s?", text, best).WithDetail("nearest", best)
	}
	return errNoEntry.Errorf("%s", text)
}
