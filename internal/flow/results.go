package flow

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/fault"
	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/catalog"
	"tarn.dev/tarn/internal/catalog/dataver"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/flow/memo"
	"tarn.dev/tarn/internal/lake"
)

var errResult = errdef.New(errdef.UserCode, "run.bad_result", "the result cannot be read")

// takeOver makes what an item left on scratch durable: blobs and objects first, then the memo row that
// names them.
func (a *attempt) takeOver(ctx context.Context, inv *invocation, p *produced) outcome {
	if p == nil {
		return outcome{inv: inv, err: errRunner.Errorf("the runner reported nothing for item %q", inv.id)}
	}
	if p.err != nil {
		return outcome{inv: inv, err: p.err, classes: p.classes}
	}
	frag, err := a.keep(ctx, inv, p)
	return outcome{inv: inv, fragment: frag, err: err, reported: p.reported}
}

func (a *attempt) keep(ctx context.Context, inv *invocation, p *produced) (*memo.Fragment, error) {
	fn := a.work.node.Function
	if err := verify(fn, p); err != nil {
		return nil, err
	}
	frag := &memo.Fragment{Key: inv.key, Usage: p.usage, Check: p.check, Created: now()}
	names := fn.Outputs
	if fn.Kind == manifest.Check {
		names = []string{offendersTable}
	}
	for _, name := range names {
		if p.tables[name] == "" {
			continue // a check that names no rows
		}
		t, err := a.f.keepTable(ctx, inv.key, name, p.tables[name])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", fn.Name, err)
		}
		frag.Tables = append(frag.Tables, t)
	}
	batch := a.f.lake.Begin(ctx)
	defer batch.Discard()
	if p.files != "" {
		var err error
		if frag.Files, err = keepFiles(ctx, batch, p.files); err != nil {
			return nil, fmt.Errorf("%s: %w", fn.Name, err)
		}
	}
	var err error
	if frag.Provenance, err = a.provenance(ctx, batch, inv, p.reported); err != nil {
		return nil, err
	}
	if err := batch.Flush(ctx); err != nil {
		return nil, fmt.Errorf("store the result of %s: %w", fn.Name, err)
	}
	if err := fault.Point("run.step.before_memo"); err != nil {
		return nil, err
	}
	kept, err := a.remember(ctx, frag)
	if err != nil {
		return nil, err
	}
	return kept, fault.Point("run.step.after_memo")
}

// verify refuses a result that lacks something the function declares.
func verify(fn *manifest.Function, p *produced) error {
	if fn.Kind == manifest.Check {
		if p.check == nil {
			return errRunner.Errorf("check %s reported no verdict", fn.Name)
		}
		return nil
	}
	for _, out := range fn.Outputs {
		if p.tables[out] == "" {
			return errResult.Errorf("%s made no table %s", fn.Name, out)
		}
	}
	return nil
}

// remember files a result under its key and returns the one that counts. What a rerun made is only
// compared: the first result stays the one that everything else was made of.
func (a *attempt) remember(ctx context.Context, frag *memo.Fragment) (*memo.Fragment, error) {
	switch {
	case a.asked.apart:
		return frag, nil
	case a.asked.noCache:
		return frag, a.f.memo.Replace(ctx, frag)
	}
	kept, _, err := a.f.memo.Remember(ctx, frag)
	return kept, err
}

// keepTable hashes an Arrow file's rows and stores the file.
func (f *Flow) keepTable(ctx context.Context, key memo.Key, name, path string) (memo.Table, error) {
	t := memo.Table{Name: name}
	file, err := os.Open(path)
	if err != nil {
		return t, errResult.Errorf("read table %s: %w", name, err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return t, fmt.Errorf("read table %s: %w", name, err)
	}
	t.Bytes = info.Size()
	if t.Schema, t.Sum, err = identify(file); err != nil {
		return t, errResult.Errorf("read table %s: %w", name, err)
	}
	var salt [6]byte
	if _, err := rand.Read(salt[:]); err != nil {
		return t, fmt.Errorf("name fragment: %w", err)
	}
	t.Blob = fmt.Sprintf("fragments/%s/%s-%s.arrow", key[:2], key, hex.EncodeToString(salt[:]))
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return t, fmt.Errorf("read table %s: %w", name, err)
	}
	if err := f.blobs.Put(ctx, t.Blob, blob.Given{File: file}); err != nil {
		return t, fmt.Errorf("store table %s: %w", name, err)
	}
	return t, nil
}

// identify computes the identity of the rows in an Arrow IPC file. The file was written by user code:
// a panic of the reader is a bad file and no more.
func identify(r ipc.ReadAtSeeker) (schema string, sum dataver.Sum, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("damaged Arrow file: %v", p)
		}
	}()
	rd, err := ipc.NewFileReader(r)
	if err != nil {
		return "", sum, err
	}
	defer rd.Close()
	h, err := dataver.NewHasher(rd.Schema())
	if err != nil {
		return "", sum, err
	}
	for i := range rd.NumRecords() {
		rec, err := rd.RecordBatchAt(i)
		if err != nil {
			return "", sum, err
		}
		err = h.Write(rec)
		rec.Release()
		if err != nil {
			return "", sum, err
		}
	}
	return catalog.Fingerprint(rd.Schema()), h.Sum(), nil
}

// eachBatch calls visit with every batch of Arrow IPC files.
func eachBatch(paths []string, schema func(*arrow.Schema) error, visit func(arrow.RecordBatch) error) error {
	for i, path := range paths {
		err := func() error {
			file, err := os.Open(path)
			if err != nil {
				return fmt.Errorf("open fragment: %w", err)
			}
			defer file.Close()
			rd, err := ipc.NewFileReader(file)
			if err != nil {
				return errdef.Newf(errdef.DataLoss, "run.fragment", "fragment %s: %w", filepath.Base(path), err)
			}
			defer rd.Close()
			if i == 0 {
				if err := schema(rd.Schema()); err != nil {
					return err
				}
			}
			for j := range rd.NumRecords() {
				rec, err := rd.RecordBatchAt(j)
				if err != nil {
					return errdef.Newf(errdef.DataLoss, "run.fragment", "fragment %s: %w", filepath.Base(path), err)
				}
				err = visit(rec)
				rec.Release()
				if err != nil {
					return err
				}
			}
			return nil
		}()
		if err != nil {
			return err
		}
	}
	return nil
}

// keepFiles stores what a function wrote into its output folder.
func keepFiles(ctx context.Context, b *lake.Batch, dir string) ([]memo.File, error) {
	var out []memo.File
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if !d.Type().IsRegular() {
			return errResult.Errorf("%s in the output folder is not a regular file", rel)
		}
		if _, err := lake.ParseKey(lake.FileKey(rel)); err != nil {
			return errResult.Errorf("%s in the output folder: %w", rel, err)
		}
		r, err := os.Open(path)
		if err != nil {
			return err
		}
		defer r.Close()
		ref, err := b.PutFile(ctx, r)
		if err != nil {
			return err
		}
		out = append(out, memo.File{Path: rel, Ref: ref})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("store output files: %w", err)
	}
	return out, nil
}

// provenance records how an item's result came about.
func (a *attempt) provenance(ctx context.Context, b *lake.Batch, inv *invocation, reported []memo.Reported) (lake.Hash, error) {
	fn := a.work.node.Function
	snap, err := a.code.record(ctx)
	if err != nil {
		return lake.Hash{}, err
	}
	p := memo.Provenance{
		Kind: memo.ByStep, Asset: fn.Name, Function: fn.Qualname, File: fn.File, Run: a.run, Time: now(), Snapshot: snap,
		Key: inv.key, Components: &inv.comps, Level: a.level, Reported: reported,
	}
	for _, in := range fn.Inputs {
		switch in.Kind {
		case manifest.InTable:
			src := a.work.tables[in.Param].source(in.Param)
			if fn.Kind == manifest.Check {
				if src, err = a.f.judgedSource(ctx, a.work.tables[in.Param], in.Param); err != nil {
					return lake.Hash{}, err
				}
			}
			p.Inputs = append(p.Inputs, src)
		case manifest.InFiles:
			files := a.work.files[in.Param]
			if in.Each != "" || in.GroupBy != "" {
				files = inv.files
			}
			for _, v := range files {
				p.Inputs = append(p.Inputs, memo.Source{Param: in.Param, Kind: string(in.Kind), Key: lake.FileKey(v.path), Identity: v.identity(), Provenance: v.prov})
			}
		}
	}
	return memo.PutProvenance(ctx, b, p)
}

// paths are the files of blobs, which stay until ctx has ended.
func (f *Flow) paths(ctx context.Context, blobs []string) ([]string, error) {
	paths := make([]string, len(blobs))
	for i, name := range blobs {
		var err error
		if paths[i], err = f.blobs.File(ctx, name); err != nil {
			return nil, err
		}
	}
	return paths, nil
}

// fragmentOf returns an item's fragment, also when only its key was compared so far.
func (f *Flow) fragmentOf(ctx context.Context, inv *invocation) (*memo.Fragment, error) {
	if inv.fragment != nil {
		return inv.fragment, nil
	}
	frag, err := f.memo.Lookup(ctx, inv.key)
	if err != nil {
		return nil, err
	}
	if frag == nil {
		return nil, errGone
	}
	inv.fragment = frag
	return frag, nil
}

// errGone says that a result which a slot names is no longer in the memo: the item runs again.
var errGone = errors.New("fragment is no longer kept")
