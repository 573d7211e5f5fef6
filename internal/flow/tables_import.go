package flow

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/pattern"
	"tarn.dev/tarn/internal/catalog/datafile"
	"tarn.dev/tarn/internal/flow/memo"
)

// Errors of imports.
var (
	ErrImportSource  = errdef.New(errdef.NotFound, "import.no_source", "nothing to import")
	ErrImportFormat  = errdef.New(errdef.InvalidArgument, "import.format", "the format is unclear")
	ErrImportRead    = errdef.New(errdef.InvalidArgument, "import.unreadable", "the file cannot be read")
	ErrImportChanged = errdef.New(errdef.Conflict, "import.source_changed", "a file changed during the import")
)

// ImportRequest asks to read files of this host into a table.
type ImportRequest struct {
	TableWrite
	Sources []string // absolute paths of files and folders, or globs
	Format  string   // parquet, csv or json; "" goes by the ending
	Options map[string]any
}

// ImportProgress says how far an import is. Total is 0 where nobody knows.
type ImportProgress struct {
	Phase        string // reading, writing, publishing
	Bytes, Total int64
}

// Import reads files into one table, as one commit. Rows stream from the files into data files, in a
// process of their own; this one hashes the files meanwhile.
func (f *Flow) Import(ctx context.Context, r ImportRequest, progress func(ImportProgress)) (*TableWritten, error) {
	unnamed := r.Table == ""
	if unnamed && len(r.Sources) > 0 {
		r.Table = nameOfSource(r.Sources[0])
	}
	if out, ok, err := f.tableAnswered(ctx, r.TableWrite); ok || err != nil {
		return out, err
	}
	files, format, err := findImports(r.Sources, r.Format)
	if err != nil {
		return nil, err
	}
	if unnamed && r.Table == "" {
		return nil, ErrTableName.Errorf("%s gives no name for a table", filepath.Base(r.Sources[0])).WithNext("--as NAME")
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	if r.Info.Message == "" {
		r.Info.Message = importMessage(r.Table, files)
	}
	var total int64
	for _, file := range files {
		total += file.size
	}
	if total == 0 {
		return nil, ErrImportRead.Errorf("%s is empty: a table needs at least its columns' names", files[0].path)
	}
	return f.writeTableRows(ctx, r.TableWrite, func(ctx context.Context, dir string, layout datafile.Layout) (datafile.Result, error) {
		var result datafile.Result
		g, gctx := errgroup.WithContext(ctx)
		g.Go(func() error {
			return hashFiles(gctx, files, func(n int64) { progress(ImportProgress{Phase: "reading", Bytes: n, Total: total}) })
		})
		g.Go(func() (err error) {
			result, err = f.importFiles(gctx, dir, layout, files, format, r.Options)
			return err
		})
		if err := g.Wait(); err != nil {
			return result, err
		}
		progress(ImportProgress{Phase: "publishing", Bytes: total, Total: total})
		return result, unchangedFiles(files)
	}, func() memo.Provenance {
		p := memo.Provenance{Kind: memo.ByImport, Author: r.Info.Author, Time: now()}
		for _, file := range files {
			p.Source = append(p.Source, memo.FileSource{Path: file.path, Size: file.size, Hash: file.hash})
		}
		return p
	})
}

func importMessage(table string, files []*importFile) string {
	if len(files) == 1 {
		return fmt.Sprintf("Import %s from %s", table, filepath.Base(files[0].path))
	}
	return fmt.Sprintf("Import %s from %d files", table, len(files))
}

// importFile is a file as it was found.
type importFile struct {
	path    string
	size    int64
	changed time.Time
	hash    string
}

// endings of files by format. Compressed text is read too.
var endings = map[string]string{
	".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv",
	".json": "json", ".jsonl": "json", ".ndjson": "json",
}

// ending is the part of a name that tells the format, and the rest.
func ending(name string) (stem, format string) {
	stem = name
	for _, packed := range []string{".gz", ".zst"} {
		if cut, ok := strings.CutSuffix(strings.ToLower(stem), packed); ok {
			stem = stem[:len(cut)]
		}
	}
	ext := strings.ToLower(filepath.Ext(stem))
	if format = endings[ext]; format == "" {
		return name, ""
	}
	return stem[:len(stem)-len(ext)], format
}

// findImports lists the files that sources name, each once, and their one format.
func findImports(sources []string, format string) ([]*importFile, string, error) {
	if len(sources) == 0 {
		return nil, "", ErrImportSource.Errorf("no file was named")
	}
	var files []*importFile
	seen := map[string]bool{}
	for _, source := range sources {
		paths, err := expandSource(source, format)
		if err != nil {
			return nil, "", err
		}
		for _, path := range paths {
			if seen[path] {
				continue
			}
			seen[path] = true
			st, err := os.Stat(path)
			if err != nil {
				return nil, "", ErrImportSource.Errorf("%s: %w", path, pathless(err))
			}
			if !st.Mode().IsRegular() {
				return nil, "", ErrImportRead.Errorf("%s is not a regular file (%s)", path, st.Mode().Type())
			}
			files = append(files, &importFile{path: path, size: st.Size(), changed: st.ModTime()})
		}
	}
	if format != "" {
		if !slices.Contains([]string{"parquet", "csv", "json"}, format) {
			return nil, "", ErrImportFormat.Errorf("files of format %q cannot be imported; parquet, csv and json can", format)
		}
		return files, format, nil
	}
	for _, file := range files {
		_, one := ending(filepath.Base(file.path))
		switch {
		case one == "":
			return nil, "", ErrImportFormat.Errorf("the ending of %s tells no format", file.path).WithNext("--format parquet|csv|json")
		case format != "" && one != format:
			return nil, "", ErrImportFormat.Errorf("%s is %s and %s is %s: one import reads files of one format", files[0].path, format, file.path, one)
		}
		format = one
	}
	return files, format, nil
}

// expandSource lists the files of one source: a file, those of a folder, or those that a glob matches.
func expandSource(source, format string) ([]string, error) {
	if !filepath.IsAbs(source) {
		return nil, ErrImportSource.Errorf("%s is not an absolute path", source)
	}
	st, err := os.Stat(source)
	switch {
	case err == nil && !st.IsDir():
		return []string{filepath.Clean(source)}, nil
	case err == nil:
		return folderSources(source, format)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, ErrImportRead.Errorf("%s: %w", source, pathless(err))
	}
	if !strings.ContainsAny(source, "*?[{") {
		return nil, ErrImportSource.Errorf("%s: no such file or folder", source)
	}
	paths, err := doublestar.FilepathGlob(source, doublestar.WithFilesOnly())
	if err != nil {
		return nil, ErrImportSource.Errorf("%s is not a glob: %w", source, err)
	}
	if len(paths) == 0 {
		return nil, ErrImportSource.Errorf("no file matches %s", source)
	}
	slices.Sort(paths)
	return paths, nil
}

// folderSources are the files of a folder that can be imported; hidden ones and others lie there too.
func folderSources(dir, format string) ([]string, error) {
	var paths []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return ErrImportRead.Errorf("%s: %w", path, pathless(err))
		}
		name := d.Name()
		if path != dir && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")) {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if _, known := ending(name); !d.IsDir() && known != "" && (format == "" || known == format) {
			paths = append(paths, path)
		}
		return nil
	})
	if err == nil && len(paths) == 0 {
		err = ErrImportSource.Errorf("%s holds no parquet, csv or json files", dir)
	}
	return paths, err
}

// pathless is a file's error without the path that the message already has.
func pathless(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

var notInTableName = pattern.Of(`[^\p{L}\p{N}_]+`)

// maxSourceName bounds a table name made from a file's.
const maxSourceName = 63

// nameOfSource makes a table name that SQL takes without quotes: of a file's name, or, for a glob, of
// the folder's.
func nameOfSource(source string) string {
	name, _ := ending(filepath.Base(source))
	for strings.ContainsAny(name, "*?[{") && source != filepath.Dir(source) {
		if _, err := os.Stat(source); err == nil {
			break
		}
		source = filepath.Dir(source)
		name = filepath.Base(source)
	}
	name = strings.Trim(notInTableName().ReplaceAllString(name, "_"), "_")
	if name != "" && name[0] >= '0' && name[0] <= '9' {
		name = "t_" + name
	}
	if len(name) > maxSourceName {
		name = strings.ToValidUTF8(name[:maxSourceName], "")
	}
	return name
}

// hashFiles fills in the hashes; progress gets the bytes so far.
func hashFiles(ctx context.Context, files []*importFile, progress func(int64)) error {
	var done int64
	buf := make([]byte, 1<<20)
	for _, file := range files {
		h := blake3.New()
		err := func() error {
			in, err := os.Open(file.path)
			if err != nil {
				return err
			}
			defer in.Close() //nolint:errcheck // read only
			for {
				if err := context.Cause(ctx); err != nil {
					return err
				}
				n, err := in.Read(buf)
				_, _ = h.Write(buf[:n]) // a hash never fails
				if done += int64(n); n > 0 {
					progress(done)
				}
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
			}
		}()
		if ctx.Err() != nil {
			return err
		}
		if err != nil {
			return ErrImportRead.Errorf("%s: %w", file.path, pathless(err))
		}
		file.hash = hex.EncodeToString(h.Sum(nil))
	}
	return nil
}

// unchangedFiles refuses an import whose files somebody wrote to while they were read.
func unchangedFiles(files []*importFile) error {
	for _, file := range files {
		st, err := os.Stat(file.path)
		if err != nil || st.Size() != file.size || !st.ModTime().Equal(file.changed) {
			return ErrImportChanged.Errorf("%s changed while it was imported; nothing was written", file.path).WithNext("import again when nobody writes to it")
		}
	}
	return nil
}
