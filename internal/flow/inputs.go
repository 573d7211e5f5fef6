package flow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/check"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/query"
	"tarn.dev/tarn/internal/runtime"
)

// inputsOf lays inputs out under one scratch folder, which the sandbox sees as inside.
type inputsOf struct {
	f       *Flow
	scratch string
	inside  string
}

// shared lays out what every item of a step gets, unless it is there already.
func (in inputsOf) shared(ctx context.Context, wk *work, projectInside string) ([]pyInput, error) {
	out := []pyInput{}
	for _, decl := range wk.node.Inputs {
		switch {
		case decl.Kind == manifest.InTable:
			pi, err := in.table(ctx, wk, decl)
			if err != nil {
				return nil, err
			}
			out = append(out, pi)
		case decl.Kind == manifest.InFiles && decl.Each == "" && decl.GroupBy == "":
			pi, err := in.files(ctx, decl, wk.files[decl.Param])
			if err != nil {
				return nil, err
			}
			out = append(out, pi)
		case decl.Kind == manifest.InLocal:
			pi := pyInput{Param: decl.Param, Kind: string(decl.Kind), Paths: []pyPath{}}
			for _, p := range wk.locals[decl.Param] {
				pi.Paths = append(pi.Paths, pyPath{Key: p, Path: projectInside + "/" + p})
			}
			out = append(out, pi)
		case decl.Kind == manifest.InContext || decl.Kind == manifest.InOutputDir || decl.Kind == manifest.InPartition:
			out = append(out, pyInput{Param: decl.Param, Kind: string(decl.Kind)})
		case decl.Kind == manifest.InSecret: // by name: the context is a file
			out = append(out, pyInput{Param: decl.Param, Kind: string(decl.Kind), Name: decl.Secret})
		}
	}
	return out, nil
}

// table gives a table as one Arrow file. What a parent left behind is used as it is: no copy is made
// unless rows are selected.
func (in inputsOf) table(ctx context.Context, wk *work, decl manifest.Input) (pyInput, error) {
	v := wk.tables[decl.Param]
	pi := pyInput{Param: decl.Param, Kind: string(decl.Kind), Name: v.name, Format: decl.Format, Columns: decl.Columns}
	var host string
	var err error
	if len(v.arrow) == 1 && decl.Where == "" {
		host, err = in.f.blobs.File(ctx, v.arrow[0])
	} else {
		host, err = in.f.selected(ctx, v, decl)
	}
	if err != nil {
		return pi, fmt.Errorf("%s reads %s: %w", wk.node.Name, v.name, err)
	}
	// A link, so that the sandbox sees the file inside its scratch mount: both are below the home, on one disk.
	if err := os.Link(host, filepath.Join(in.scratch, "in-"+decl.Param+".arrow")); err != nil && !errors.Is(err, fs.ErrExist) {
		return pi, fmt.Errorf("lay out %s: %w", v.name, err)
	}
	pi.Path = in.inside + "/in-" + decl.Param + ".arrow"
	return pi, nil
}

// selectedFrom is what a selection calls its table.
var selectedFrom = query.Name{Table: "input"}

// selected makes the Arrow file of a table's columns and rows once for all steps that ask for the same.
func (f *Flow) selected(ctx context.Context, v *value, decl manifest.Input) (string, error) {
	id := blake3.Sum256([]byte(v.identity() + "\x00" + strings.Join(decl.Columns, "\x00") + "\x00\x00" + decl.Where))
	dir := f.scratch("in")
	path := filepath.Join(dir, fmt.Sprintf("%x.arrow", id[:16]))
	return path, f.once.do(ctx, path, func() error {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		src, err := f.source(ctx, selectedFrom, v)
		if err != nil {
			return err
		}
		tmp := path + ".new"
		_, err = f.Engine.Run(ctx, query.Job{
			SQL: selection(decl), Sources: []query.Source{src}, Sinks: []query.Sink{{Kind: query.SinkArrow, Path: tmp}},
		}, nil)
		if err != nil {
			os.Remove(tmp)
			return err
		}
		return os.Rename(tmp, path)
	})
}

// selection is the query of a table's columns and rows.
func selection(in manifest.Input) string {
	cols := "*"
	if len(in.Columns) > 0 {
		quoted := make([]string, len(in.Columns))
		for i, c := range in.Columns {
			quoted[i] = check.Quote(c)
		}
		cols = strings.Join(quoted, ", ")
	}
	sql := "SELECT " + cols + " FROM " + check.Quote(selectedFrom.Table)
	if in.Where != "" {
		sql += " WHERE " + in.Where
	}
	return sql
}

// source says where the engine finds a table.
func (f *Flow) source(ctx context.Context, name query.Name, v *value) (query.Source, error) {
	if len(v.arrow) > 0 {
		paths, err := f.paths(ctx, v.arrow)
		return query.Source{Name: name, Arrow: paths}, err
	}
	if v.entry == nil {
		return query.Source{}, errdef.Newf(errdef.Internal, "run.no_source", "table %s is nowhere", v.name)
	}
	return f.tableSource(ctx, name, *v.entry, false)
}

// files lays files out under their own names.
func (in inputsOf) files(ctx context.Context, decl manifest.Input, files []fileValue) (pyInput, error) {
	pi := pyInput{Param: decl.Param, Kind: string(decl.Kind), Each: decl.Each != "", GroupBy: decl.GroupBy, Paths: []pyPath{}}
	for _, v := range files {
		rel := filepath.Join("files", filepath.FromSlash(v.path))
		if err := in.layOut(ctx, filepath.Join(in.scratch, rel), v); err != nil {
			return pi, fmt.Errorf("lay out file %s: %w", v.path, err)
		}
		pi.Paths = append(pi.Paths, pyPath{Key: v.path, Path: in.inside + "/files/" + v.path})
	}
	return pi, nil
}

func (in inputsOf) layOut(ctx context.Context, dst string, v fileValue) error {
	if _, err := os.Stat(dst); err == nil {
		return nil // two inputs name the same file
	}
	if err := os.MkdirAll(filepath.Dir(dst), 0o700); err != nil {
		return err
	}
	e := lake.FileEntry(v.ref)
	if v.link != nil {
		e = *v.link
	}
	r, err := in.f.OpenFile(ctx, e)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o400)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	if err = errors.Join(err, w.Close()); err != nil {
		return errors.Join(err, os.Remove(dst)) // another try must not take it for whole
	}
	return nil
}

// limitsOf are the limits a function declares.
func limitsOf(fn *manifest.Function) (runtime.Limits, error) {
	l := runtime.Limits{Time: time.Duration(fn.Options.Timeout * float64(time.Second))}
	r := fn.Options.Resources
	if r == nil {
		return l, nil
	}
	var err error
	if l.MemoryBytes, err = size(fn, "memory", r.Memory); err != nil {
		return l, err
	}
	if l.DiskBytes, err = size(fn, "disk", r.Disk); err != nil {
		return l, err
	}
	l.CPUs = r.CPU
	return l, nil
}

func size(fn *manifest.Function, what, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := humanize.ParseBytes(text)
	if err != nil || n == 0 || n > 1<<62 {
		return 0, errdef.Newf(errdef.InvalidArgument, "run.resources", "%s:%d: %s=%q. Write a size such as \"2GiB\"", fn.File, fn.Line, what, text)
	}
	return int64(n), nil
}

func bytesText(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

func seconds(s float64) string { return time.Duration(s * float64(time.Second)).String() }

// clip makes a text fit into an event: short enough, and UTF-8, as the API wants it. User code prints any bytes.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= maxEventText {
		return s
	}
	return strings.ToValidUTF8(s[:maxEventText], "") + "..."
}
