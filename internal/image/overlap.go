package image

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// overlapFile records, inside a view, the paths that several of its packages bring.
const overlapFile = ".tarn-overlaps"

// settleOverlaps makes the outcome the same everywhere when packages bring one path with different
// content. uv unpacks them at the same time and the last one wins, a different one each time; unpacked
// again one by one, the last by name does.
func (s *Store) settleOverlaps(ctx context.Context, view View, staging string, progress func(string)) error {
	overlaps, err := findOverlaps(staging)
	if err != nil || len(overlaps) == 0 {
		return err
	}
	var note strings.Builder
	again := map[string]bool{}
	for _, path := range slices.Sorted(maps.Keys(overlaps)) {
		owners := overlaps[path]
		fmt.Fprintf(&note, "%s is in %s; that of %s is used\n", path, strings.Join(owners, ", "), owners[len(owners)-1])
		for _, o := range owners {
			again[o] = true
		}
	}
	for _, p := range view.Lock.Packages { // sorted by name
		if !again[p.Name] {
			continue
		}
		if err := s.install(ctx, view, staging, []Package{p}, func(string) {}, "--reinstall"); err != nil {
			return err
		}
	}
	for line := range strings.Lines(note.String()) {
		progress(strings.TrimSpace(line))
	}
	return os.WriteFile(filepath.Join(staging, overlapFile), []byte(note.String()), 0o444)
}

// findOverlaps lists the owners, sorted, of each path that several packages' records claim with different
// hashes.
func findOverlaps(dir string) (map[string][]string, error) {
	records, err := filepath.Glob(filepath.Join(dir, "*.dist-info", "RECORD"))
	if err != nil {
		return nil, err
	}
	hashes := map[string]map[string]string{} // path -> owner -> hash
	for _, record := range records {
		name, _, _ := strings.Cut(strings.TrimSuffix(filepath.Base(filepath.Dir(record)), ".dist-info"), "-")
		f, err := os.Open(record)
		if err != nil {
			return nil, err
		}
		r := csv.NewReader(f)
		r.FieldsPerRecord = -1
		rows, err := r.ReadAll()
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("read RECORD of %s: %w", name, err)
		}
		for _, row := range rows {
			if len(row) < 2 || row[1] == "" { // byte code and RECORD itself have no hash
				continue
			}
			path := filepath.Clean(row[0])
			if hashes[path] == nil {
				hashes[path] = map[string]string{}
			}
			hashes[path][Normalize(name)] = row[1]
		}
	}
	found := map[string][]string{}
	for path, owners := range hashes {
		if len(slices.Compact(slices.Sorted(maps.Values(owners)))) > 1 {
			found[path] = slices.Sorted(maps.Keys(owners))
		}
	}
	return found, nil
}
