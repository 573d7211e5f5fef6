package query

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/dustin/go-humanize"
	"golang.org/x/sync/errgroup"

	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/catalog/datafile"
)

// Far are the files of a table of which some are not on this host. Run gets of those what the statement reads.
type Far struct {
	Blobs blob.FarStore
	Dir   string // where excerpts may be made
	Files []FarFile
}

// FarFile is a data file, by the name of its blob.
type FarFile struct {
	Name string
	Size int64
	Path string // if all of it is on this host
	URL  string // of somebody else's file
}

// Needs are what a job reads of the sources whose files are excerpts, by the number of the source: what each scan of it
// needs. A source that is missing is not scanned.
type Needs map[int][]datafile.Need

const (
	// footerBytes is what is read of a file at first: most footers are shorter. Of a file of wholeBytes all is read: one
	// request is faster than two.
	footerBytes = 32 << 10
	wholeBytes  = 160 << 10
	// filesAtOnce bounds the files that are opened, or filled, at a time.
	filesAtOnce = 32
)

// excerpts are local stand-ins for the far files of a job. An excerpt has the size of its file and bytes of it in their
// places, and holes elsewhere: first the footer, which is all that planning needs, then the pages that the plan asks
// for. Its footer tells of the row groups that it has pages of. A hole that is read all the same is an error of the
// reader's, no data: a page that begins with zeros has no type.
type excerpts struct {
	dir   string
	files map[int][]*excerpt // by the number of the source
}

type excerpt struct {
	FarFile
	blobs  blob.FarStore
	path   string
	held   int64 // from here to the end it has all bytes
	footer int64 // where the footer begins
}

// excerpt makes stand-ins for the far files of a job, and has the job read them.
func (job *Job) excerpt(ctx context.Context) (_ *excerpts, err error) {
	x := &excerpts{files: map[int][]*excerpt{}}
	sources := make([]Source, len(job.Sources)) // those of a plan serve several jobs
	copy(sources, job.Sources)
	job.Sources = sources
	var all []*excerpt
	for i, s := range sources {
		if s.Parquet == nil || s.Parquet.Far == nil {
			continue
		}
		scan := *s.Parquet
		sources[i].Parquet = &scan
		if job.Describe && !scan.ByName { // a table without files has the same columns
			continue
		}
		if x.dir == "" {
			if x.dir, err = os.MkdirTemp(scan.Far.Dir, "far-*"); err != nil {
				return nil, classifyDisk(err)
			}
		}
		for n, f := range scan.Far.Files {
			if f.Path == "" {
				e := &excerpt{FarFile: f, blobs: scan.Far.Blobs, path: filepath.Join(x.dir, fmt.Sprintf("%d-%d.parquet", i, n))}
				x.files[i], f.Path = append(x.files[i], e), e.path
				all = append(all, e)
			}
			scan.Files = append(scan.Files, f.Path)
		}
		scan.Excerpts = len(x.files[i]) > 0
	}
	if err := each(ctx, all, (*excerpt).open); err != nil {
		return nil, errors.Join(err, x.remove())
	}
	return x, nil
}

// each does a thing with many excerpts.
func each(ctx context.Context, all []*excerpt, do func(*excerpt, context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(filesAtOnce)
	for _, e := range all {
		group.Go(func() error { return do(e, ctx) })
	}
	return group.Wait()
}

// fill gets what a job needs. A child says what that is, so it gets nothing that its job has not.
func (x *excerpts) fill(ctx context.Context, needs Needs) error {
	var all []*excerpt
	wanted := map[*excerpt][]datafile.Need{}
	for i, files := range x.files {
		for _, e := range files {
			wanted[e] = needs[i]
		}
		all = append(all, files...)
	}
	return each(ctx, all, func(e *excerpt, ctx context.Context) error { return e.fill(ctx, wanted[e]) })
}

func (x *excerpts) remove() error {
	if x.dir == "" {
		return nil
	}
	return os.RemoveAll(x.dir)
}

// open makes the excerpt with the footer alone.
func (e *excerpt) open(ctx context.Context) (err error) {
	f, err := os.OpenFile(e.path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return classifyDisk(err)
	}
	defer func() { err = errors.Join(err, classifyDisk(f.Close())) }()
	if err := f.Truncate(e.Size); err != nil {
		return classifyDisk(err)
	}
	first := footerBytes
	if e.Size <= wholeBytes {
		first = wholeBytes
	}
	e.held = e.Size
	if err := e.from(ctx, f, max(e.Size-int64(first), 0)); err != nil {
		return err
	}
	var end [8]byte
	if e.Size < int64(len(end)) {
		return e.corrupt("it has %d bytes", e.Size)
	}
	if _, err := f.ReadAt(end[:], e.Size-int64(len(end))); err != nil {
		return classifyDisk(err)
	}
	e.footer = e.Size - int64(len(end)) - int64(binary.LittleEndian.Uint32(end[:]))
	if string(end[4:]) != "PAR1" || e.footer < 0 {
		return e.corrupt("it has no footer")
	}
	return e.from(ctx, f, e.footer)
}

// from gets the file from a place on, unless the excerpt has it.
func (e *excerpt) from(ctx context.Context, f *os.File, at int64) error {
	if at >= e.held {
		return nil
	}
	if err := e.get(ctx, f, datafile.Span{Offset: at, Length: e.held - at}); err != nil {
		return err
	}
	e.held = at
	return nil
}

// fill gets the pages that are needed.
func (e *excerpt) fill(ctx context.Context, needs []datafile.Need) (err error) {
	f, err := os.OpenFile(e.path, os.O_RDWR, 0)
	if err != nil {
		return classifyDisk(err)
	}
	defer func() { err = errors.Join(err, classifyDisk(f.Close())) }()
	footer, err := datafile.Footer(f)
	if err != nil {
		return e.corrupt("%w", err)
	}
	selected, err := datafile.Select(footer, e.footer, needs)
	if err != nil {
		return e.corrupt("%w", err)
	}
	if err := e.get(ctx, f, selected.Spans...); err != nil {
		return err
	}
	if len(selected.Groups) == footer.NumRowGroups() {
		return nil
	}
	text, err := datafile.FooterOf(footer, selected.Groups)
	if err != nil {
		return e.corrupt("%w", err)
	}
	_, err = f.WriteAt(text, e.footer)
	if err == nil {
		err = f.Truncate(e.footer + int64(len(text)))
	}
	return classifyDisk(err)
}

// get copies parts of the file, but for those that the excerpt has.
func (e *excerpt) get(ctx context.Context, f *os.File, spans ...datafile.Span) error {
	var parts []blob.Range
	for _, s := range spans {
		if s.Offset >= e.held {
			continue
		}
		for at, end := s.Offset, s.Offset+s.Length; at < end; at += blob.MaxRange {
			parts = append(parts, blob.Range{Offset: at, Length: min(blob.MaxRange, end-at)})
		}
	}
	err := e.blobs.Ranges(ctx, e.Name, e.Size, parts, func(i int, data []byte) error {
		_, err := f.WriteAt(data, parts[i].Offset)
		return classifyDisk(err)
	})
	if errors.Is(err, blob.ErrNotFound) {
		return e.corrupt("it is missing: %w", err)
	}
	return err
}

// classifyDisk classifies errors of the disk that excerpts are on.
func classifyDisk(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return ErrDiskFull.Errorf("copy parts of a table: %w", err)
	}
	return ErrRead.Errorf("copy parts of a table: %w", err)
}

func (e *excerpt) corrupt(format string, args ...any) error {
	if e.URL != "" {
		return ErrForeign.Errorf("%s is no Parquet file that can be read: %w", e.URL, fmt.Errorf(format, args...))
	}
	return ErrCorrupt.Errorf("data file "+e.Name+" ("+humanize.IBytes(uint64(max(e.Size, 0)))+"): "+format, args...).
		WithNext("Find the table: tarn fsck --deep")
}
