package cli

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

// Files are asked for in groups, several at a time: one keeps the server busy while another is written.
const (
	getStreams = 4
	groupFiles = 256
	groupBytes = 4 << 20
)

// continued is the size from which on an interrupted copy is kept, and continued by the next one.
const continued = 8 << 20

// errCopied is returned when what has been written is not what was to be copied.
var errCopied = errdef.New(errdef.DataLoss, "cli.copy", "the copy is not what is stored")

// errBusy is returned when two commands copy to one file.
var errBusy = errdef.New(errdef.FailedPrecondition, "cli.copy_busy", "the file cannot be written now")

// download copies what a pattern selects. A file has its name when it is whole; what is there already, with the same
// content, is left alone.
type download struct {
	target   target
	dst      string
	drift    bool
	keepList bool // paths is wanted
	bar      *ui.Bar

	commit string
	folder string
	rename string   // of the one file, if it gets another name
	root   *os.Root // names of the history cannot lead out of it

	mu      sync.Mutex
	files   int64
	bytes   int64
	present int64    // of the files, those that were there
	last    string   // one of the paths
	paths   []string // of all files, if keepList
}

func (d *download) run(ctx context.Context, pattern, ref string) error {
	g, ctx := errgroup.WithContext(ctx)
	groups := make(chan []*tarnv1.Selected)
	for range getStreams {
		g.Go(func() error {
			w := copier{download: d}
			for group := range groups {
				if err := w.copyGroup(ctx, group); err != nil {
					return errors.Join(err, w.close())
				}
			}
			return w.close()
		})
	}
	g.Go(func() error {
		defer close(groups)
		return d.selectGroups(ctx, pattern, ref, groups)
	})
	err := g.Wait()
	if d.root != nil {
		err = errors.Join(err, d.root.Close())
	}
	slices.Sort(d.paths)
	return err
}

func (d *download) selectGroups(ctx context.Context, pattern, ref string, groups chan<- []*tarnv1.Selected) error {
	stream, err := d.target.Files.Select(ctx, &tarnv1.SelectRequest{Project: d.target.project, Ref: ref, Pattern: pattern})
	if err != nil {
		return err
	}
	var group []*tarnv1.Selected
	size := int64(0)
	send := func() error {
		if len(group) == 0 {
			return nil
		}
		select {
		case groups <- group:
			group, size = nil, 0
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	err = recv(stream, func(m *tarnv1.SelectResponse) error {
		if d.root == nil {
			if err := d.begin(m); err != nil {
				return err
			}
		}
		for _, f := range m.GetFiles() {
			if len(group) == groupFiles || size+f.GetSize() > groupBytes {
				if err := send(); err != nil {
					return err
				}
			}
			group, size = append(group, f), size+f.GetSize()
		}
		return nil
	})
	if err != nil {
		return err
	}
	return send()
}

// begin opens the folder that copies go to.
func (d *download) begin(m *tarnv1.SelectResponse) error {
	d.commit, d.folder = m.GetCommit(), d.dst
	if m.GetOne() && !strings.HasSuffix(d.dst, "/") {
		if st, err := os.Stat(d.dst); err != nil || !st.IsDir() {
			d.folder, d.rename = filepath.Split(d.dst)
			if d.folder == "" {
				d.folder = "."
			}
		}
	}
	if err := os.MkdirAll(d.folder, 0o777); err != nil {
		return writeError(d.folder, err)
	}
	root, err := os.OpenRoot(d.folder)
	d.root = root
	return writeError(d.folder, err)
}

// done counts a file, of which so many bytes were copied now.
func (d *download) done(shown string, bytes int64, present bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files++
	d.bytes += bytes
	d.last = shown
	if present {
		d.present++
	}
	if d.keepList {
		d.paths = append(d.paths, shown)
	}
}

// copier copies one group after the other. It keeps the folder that it wrote to last open: the next file is mostly
// in the same one.
type copier struct {
	*download
	in  string // the folder's name
	dir *os.Root
}

func (w *copier) close() error {
	if w.dir == nil {
		return nil
	}
	err := w.dir.Close()
	w.dir = nil
	return err
}

// place is where a file goes: a name in w.dir, and what people call it.
func (w *copier) place(f *tarnv1.Selected) (base, shown string, err error) {
	name := f.GetRelative()
	if w.rename != "" {
		name = w.rename
	}
	shown = filepath.Join(w.folder, filepath.FromSlash(name))
	in, base := path.Split(name)
	in = path.Clean(in)
	if w.dir != nil && w.in == in {
		return base, shown, nil
	}
	if err := w.close(); err != nil {
		return "", "", writeError(shown, err)
	}
	if err := w.root.MkdirAll(in, 0o777); err != nil {
		return "", "", writeError(shown, err)
	}
	w.dir, err = w.root.OpenRoot(in)
	w.in = in
	return base, shown, writeError(shown, err)
}

func (w *copier) copyGroup(ctx context.Context, group []*tarnv1.Selected) error {
	var missing []*tarnv1.Selected
	for _, f := range group {
		base, shown, err := w.place(f)
		if err != nil {
			return err
		}
		there, err := w.holds(ctx, base, f)
		switch {
		case err != nil:
			return writeError(shown, err)
		case there:
			w.done(shown, 0, true)
		case f.GetSize() >= continued:
			if err := w.copyLarge(ctx, f); err != nil {
				return err
			}
		default:
			missing = append(missing, f)
		}
	}
	return w.read(ctx, missing, 0, w.open)
}

// holds reports whether base is a file with f's content: by its bytes, never by its times.
func (w *copier) holds(ctx context.Context, base string, f *tarnv1.Selected) (bool, error) {
	st, err := w.dir.Lstat(base)
	if errors.Is(err, fs.ErrNotExist) || err == nil && (!st.Mode().IsRegular() || st.Size() != f.GetSize() || f.GetHash() == "") {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	file, err := w.dir.Open(base)
	if errors.Is(err, fs.ErrPermission) {
		return false, nil // it may be replaced all the same
	}
	if err != nil {
		return false, err
	}
	defer file.Close() //nolint:errcheck // read only
	hash := blake3.New()
	if _, err := io.Copy(hash, &untilDone{ctx, file}); err != nil {
		return false, err
	}
	return hex.EncodeToString(hash.Sum(nil)) == f.GetHash(), nil
}

// untilDone reads until ctx ends.
type untilDone struct {
	ctx context.Context //nolint:containedctx // io.Reader has no other place for it
	r   io.Reader
}

func (u *untilDone) Read(b []byte) (int, error) {
	if err := context.Cause(u.ctx); err != nil {
		return 0, err
	}
	return u.r.Read(b)
}

// read receives files and hands each to what begin returns for it.
func (w *copier) read(ctx context.Context, files []*tarnv1.Selected, offset int64, begin func(*tarnv1.Selected) (*part, error)) error {
	if len(files) == 0 {
		return nil
	}
	req := &tarnv1.ReadRequest{Project: w.target.project, Commit: w.commit, Offset: offset, AcceptDrift: w.drift}
	for _, f := range files {
		req.Keys = append(req.Keys, f.GetKey())
	}
	stream, err := w.target.Files.Read(ctx, req)
	if err != nil {
		return err
	}
	var p *part
	err = recv(stream, func(m *tarnv1.ReadResponse) error {
		for _, piece := range m.GetPieces() {
			if p == nil {
				if len(files) == 0 {
					return errCopied.Errorf("the server sent more files than it was asked for")
				}
				if p, err = begin(files[0]); err != nil {
					return err
				}
				files = files[1:]
			}
			if err := p.write(piece.GetData()); err != nil {
				return err
			}
			w.bar.Add(len(piece.GetData()))
			if piece.GetLast() {
				whole := p
				p = nil
				if err := whole.finish(w.drift); err != nil {
					return err
				}
				w.done(whole.shown, whole.copied, false)
			}
		}
		return nil
	})
	if p != nil {
		err = errors.Join(err, p.abandon())
	}
	if err == nil && len(files) > 0 {
		err = errCopied.Errorf("%s did not come", files[0].GetRelative())
	}
	return err
}

// copyLarge copies a file of which a copy that was interrupted may have left a part.
func (w *copier) copyLarge(ctx context.Context, f *tarnv1.Selected) error {
	p, err := w.open(f)
	if err != nil {
		return err
	}
	if p.size > 0 && p.size <= f.GetSize() && f.GetHash() != "" {
		if err := p.hashPart(ctx); err != nil {
			return errors.Join(err, p.abandon())
		}
		w.bar.Add(int(p.size))
	} else if err := p.clear(); err != nil {
		return errors.Join(err, p.abandon())
	}
	begun := p.size > 0
	err = w.read(ctx, []*tarnv1.Selected{f}, p.size, func(*tarnv1.Selected) (*part, error) { return p, nil })
	if begun && errors.Is(err, errCopied) { // what was there was the begin of something else, or damaged
		return w.copyLarge(ctx, f)
	}
	return err
}

// part is a file that is being written, under another name.
type part struct {
	dir   *os.Root
	file  *os.File
	of    *tarnv1.Selected
	base  string // the name that it will have
	name  string // the name that it has
	shown string
	size  int64

	copied int64          // of size, what this process has written
	hash   *blake3.Hasher // of what is in it, if some of that was there before
}

// open begins f's part, or opens the one that is there, for this process alone.
func (w *copier) open(f *tarnv1.Selected) (*part, error) {
	base, shown, err := w.place(f)
	if err != nil {
		return nil, err
	}
	p := &part{dir: w.dir, of: f, base: base, name: partName(base), shown: shown}
	for {
		if p.file, err = w.dir.OpenFile(p.name, os.O_RDWR|os.O_CREATE, 0o666); err != nil {
			return nil, writeError(shown, err)
		}
		mine, err := p.lock()
		if err != nil {
			return nil, errors.Join(err, p.file.Close())
		}
		if mine {
			break
		}
		if err := p.file.Close(); err != nil {
			return nil, writeError(shown, err)
		}
	}
	if p.size > 0 && f.GetSize() < continued {
		if err := p.clear(); err != nil {
			return nil, errors.Join(err, p.abandon())
		}
	}
	return p, nil
}

// lock reports whether the part is this process's. It is not when another one has just given it its name.
func (p *part) lock() (bool, error) {
	if err := unix.Flock(int(p.file.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return false, errBusy.Errorf("another tarn is copying to %s", p.shown)
	} else if err != nil {
		return false, writeError(p.shown, err)
	}
	mine, err := p.file.Stat()
	if err != nil {
		return false, writeError(p.shown, err)
	}
	there, err := p.dir.Lstat(p.name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, writeError(p.shown, err)
	}
	if err == nil && !there.Mode().IsRegular() {
		return false, errBusy.Errorf("%s cannot be written: %s beside it is no file", p.shown, p.name)
	}
	p.size = mine.Size()
	return err == nil && os.SameFile(mine, there), nil
}

// partName does not depend on the length of the name, and does not meet the name of another file.
func partName(base string) string {
	sum := blake3.Sum256([]byte(base))
	return ".tarn-part-" + hex.EncodeToString(sum[:16])
}

func (p *part) clear() error {
	p.size, p.hash = 0, nil
	return writeError(p.shown, p.file.Truncate(0))
}

// hashPart reads what is there, so that the whole can be compared in the end.
func (p *part) hashPart(ctx context.Context) error {
	p.hash = blake3.New()
	_, err := io.Copy(p.hash, &untilDone{ctx, p.file})
	return writeError(p.shown, err)
}

func (p *part) write(data []byte) error {
	n, err := p.file.WriteAt(data, p.size)
	p.size, p.copied = p.size+int64(n), p.copied+int64(n)
	if p.hash != nil {
		p.hash.Write(data[:n]) //nolint:errcheck // never fails
	}
	if why := (*fs.PathError)(nil); errors.As(err, &why) {
		err = why.Err // its path is that of the part
	}
	return writeError(p.shown, err)
}

// finish gives the part its name, unless it is not what was to be copied. The length of a link that drifted is not known.
func (p *part) finish(drift bool) error {
	if p.size != p.of.GetSize() && !drift || p.hash != nil && hex.EncodeToString(p.hash.Sum(nil)) != p.of.GetHash() {
		return errors.Join(errCopied.Errorf("%s: %d bytes have come, and they are not the %d that are stored", p.shown, p.size, p.of.GetSize()), p.remove())
	}
	// The name first: whoever opens the part between a close and a rename would write to a file that has its name.
	if err := p.dir.Rename(p.name, p.base); err != nil {
		return errors.Join(writeError(p.shown, err), p.remove())
	}
	return writeError(p.shown, p.file.Close())
}

// abandon ends a copy that failed. What a later one can continue stays.
func (p *part) abandon() error {
	if p.of.GetSize() >= continued && p.size > 0 {
		return writeError(p.shown, p.file.Close())
	}
	return p.remove()
}

func (p *part) remove() error {
	return writeError(p.shown, errors.Join(p.dir.Remove(p.name), p.file.Close()))
}

func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }
