package server

import (
	"context"
	"iter"
	"path"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	"golang.org/x/text/unicode/norm"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/lake"
)

// selection is the files that a pattern chooses in a tree.
type selection struct {
	entries iter.Seq2[lake.KeyEntry, error]
	one     bool   // the pattern is the path of one file
	folder  string // the pattern is a folder: the prefix of its keys
	strip   string // what copies of the files lose from the front of their names
}

// selectFiles understands a path, a folder (with or without a slash at its end) and a glob; nothing is
// everything. A pattern that chooses nothing is an error, except for everything.
func selectFiles(ctx context.Context, tree lake.Tree, pattern, ref string) (selection, error) {
	name := norm.NFC.String(strings.TrimPrefix(strings.TrimPrefix(pattern, "./"), "/"))
	if name == "" || name == "." {
		return selection{entries: files(tree.Scan(ctx, lake.FilePrefix, "")), folder: lake.FilePrefix}, nil
	}
	trimmed := strings.TrimSuffix(name, "/")
	key := lake.FileKey(trimmed)
	_, invalid := lake.ParseKey(key)
	if invalid == nil {
		e, found, err := tree.Get(ctx, key)
		if err != nil {
			return selection{}, err
		}
		if found && trimmed == name && e.Kind != lake.KindFolder {
			return selection{entries: single(lake.KeyEntry{Key: key, Entry: e}), one: true, strip: parent(name)}, nil
		}
		folder, err := anyUnder(ctx, tree, key+"/")
		if err != nil {
			return selection{}, err
		}
		if folder {
			strip := parent(trimmed)
			if trimmed != name {
				strip = name
			}
			return selection{entries: files(tree.Scan(ctx, key+"/", "")), folder: key + "/", strip: strip}, nil
		}
	}
	if strings.ContainsAny(name, "*?[{") {
		return selectGlob(ctx, tree, name, ref)
	}
	if invalid != nil {
		return selection{}, invalid
	}
	return selection{}, noEntry(ctx, tree, lake.FilePrefix, "file", name, ref)
}

func selectGlob(ctx context.Context, tree lake.Tree, glob, ref string) (selection, error) {
	if !doublestar.ValidatePattern(glob) {
		return selection{}, errdef.Newf(errdef.InvalidArgument, "server.glob", "%s is not a valid pattern", glob)
	}
	base, _ := doublestar.SplitPattern(glob)
	prefix, strip := lake.FilePrefix, ""
	if base != "." {
		prefix, strip = lake.FileKey(base)+"/", base+"/"
	}
	entries := func(yield func(lake.KeyEntry, error) bool) {
		for ke, err := range files(tree.Scan(ctx, prefix, "")) {
			if err == nil && !doublestar.MatchUnvalidated(glob, lake.DisplayKey(ke.Key)) {
				continue
			}
			if !yield(ke, err) || err != nil {
				return
			}
		}
	}
	for _, err := range entries {
		return selection{entries: entries, strip: strip}, err
	}
	return selection{}, errNoEntry.Errorf("no file on %s matches %s", ref, glob)
}

// files leaves out what an asset keeps of its folder as a whole.
func files(all iter.Seq2[lake.KeyEntry, error]) iter.Seq2[lake.KeyEntry, error] {
	return func(yield func(lake.KeyEntry, error) bool) {
		for ke, err := range all {
			if err == nil && ke.Entry.Kind == lake.KindFolder {
				continue
			}
			if !yield(ke, err) {
				return
			}
		}
	}
}

func single(ke lake.KeyEntry) iter.Seq2[lake.KeyEntry, error] {
	return func(yield func(lake.KeyEntry, error) bool) { yield(ke, nil) }
}

// parent is the folder of a name with a slash at its end, or nothing.
func parent(name string) string {
	if dir := path.Dir(name); dir != "." {
		return dir + "/"
	}
	return ""
}
