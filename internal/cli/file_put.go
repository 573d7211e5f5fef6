package cli

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

// putBuffer is how much of a file travels in one message.
const putBuffer = 512 << 10

// errSource is returned for a source that cannot be stored.
var errSource = errdef.New(errdef.InvalidArgument, "cli.source", "cannot be stored")

func (a *app) filePutCommand() *cobra.Command {
	var into, message string
	c := codes(&cobra.Command{
		Use:   "put SRC... DST",
		Short: "Store files and folders, as one commit",
		Long: `Store files and folders, as one commit: all of them, or none.

DST is a folder if it ends in a slash, else the new name of the one SRC. A folder SRC is
stored under its own name; with a slash at its end, what lies in it is stored instead.
SRC may be a glob in quotes, or - for stdin. Content that is there already is not stored
again.`,
		Example: `  tarn file put photo.png images/
  tarn file put data/ raw/                  # what lies in data
  tarn file put 'logs/**/*.json' logs/ --into dev
  curl ... | tarn file put - raw/answer.json`,
		Args: args(2, -1),
		RunE: func(c *cobra.Command, args []string) error {
			sources, err := findSources(args[:len(args)-1], args[len(args)-1])
			if err != nil {
				return err
			}
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			resp, err := a.put(c.Context(), t, t.write(into, message), sources)
			if err != nil {
				return err
			}
			doc := map[string]any{"files": resp.GetFiles(), "bytes": resp.GetBytes(), "written": writtenDocument(resp.GetWritten())}
			a.print(doc, func() {
				a.note("stored %s, %s", ui.Count(resp.GetFiles(), "file"), ui.Size(resp.GetBytes()))
				a.arrow(resp.GetWritten())
			})
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition, errdef.Conflict, errdef.ResourceExhausted)
	c.Flags().StringVar(&into, "into", "", "the `BRANCH` to write to (default: the current one)")
	c.Flags().StringVarP(&message, "message", "m", "", "the commit's `TEXT`")
	return c
}

// source is one file to store.
type source struct {
	file string // on this host; "-" is stdin
	name string // in Tarn
	size int64  // -1: unknown
}

// findSources looks at everything before anything is sent, so that a wrong name stops the command early.
func findSources(args []string, dst string) ([]source, error) {
	folder := dst == "." || dst == "" || strings.HasSuffix(dst, "/")
	var found []source
	for _, arg := range args {
		list, isOne, err := expand(arg)
		if err != nil {
			return nil, err
		}
		if isOne && !folder && len(args) == 1 {
			list[0].name = dst
			found = append(found, list...)
			continue
		}
		if arg == "-" {
			return nil, ErrUsage.Errorf("stdin has no name: give DST as the name of a file, not %s", dst)
		}
		if !folder && len(args) > 1 {
			return nil, ErrUsage.Errorf("several sources need a folder to go to: %s/ with a slash at its end", dst)
		}
		for _, s := range list {
			s.name = path.Join(dst, s.name)
			found = append(found, s)
		}
	}
	seen := map[string]string{}
	for i, s := range found {
		found[i].name = strings.TrimPrefix(path.Clean("/"+s.name), "/")
		if other, dup := seen[found[i].name]; dup {
			return nil, errSource.Errorf("%s and %s would both become %s", other, s.file, found[i].name)
		}
		seen[found[i].name] = s.file
	}
	return found, nil
}

// expand lists the files of one argument with their names relative to where they will go; one says that
// the argument is the name of a single file.
func expand(arg string) (list []source, one bool, err error) {
	if arg == "-" {
		return []source{{file: "-", size: -1}}, true, nil
	}
	st, err := os.Stat(arg)
	switch {
	case err == nil && st.IsDir():
		return walk(arg)
	case err == nil:
		s, err := regular(arg, st)
		s.name = filepath.Base(arg)
		return []source{s}, true, err
	case !errors.Is(err, fs.ErrNotExist):
		return nil, false, errSource.Errorf("read %s: %w", arg, err)
	}
	if strings.ContainsAny(arg, "*?[{") {
		base, pattern := doublestar.SplitPattern(filepath.ToSlash(arg))
		names, err := doublestar.Glob(os.DirFS(base), pattern, doublestar.WithFilesOnly(), doublestar.WithFailOnPatternNotExist())
		if err == nil {
			for _, name := range names {
				file := filepath.Join(base, name)
				st, err := os.Stat(file)
				if err != nil {
					return nil, false, errSource.Errorf("read %s: %w", file, err)
				}
				s, err := regular(file, st)
				if err != nil {
					return nil, false, err
				}
				s.name = name
				list = append(list, s)
			}
			if len(list) > 0 {
				return list, false, nil
			}
		}
		return nil, false, errdef.Newf(errdef.NotFound, "cli.no_source", "no file matches %s", arg)
	}
	return nil, false, errdef.Newf(errdef.NotFound, "cli.no_source", "%s: no such file or folder", arg)
}

func regular(file string, st fs.FileInfo) (source, error) {
	if !st.Mode().IsRegular() {
		return source{}, errSource.Errorf("%s is not a regular file (%s)", file, st.Mode().Type())
	}
	return source{file: file, size: st.Size()}, nil
}

// walk lists a folder. Links to files are followed as cp does; links to folders are refused, for they
// may lead round in a circle.
func walk(dir string) (list []source, one bool, err error) {
	prefix := ""
	if base := filepath.Base(dir); !strings.HasSuffix(dir, "/") && base != "." && base != ".." {
		prefix = base
	}
	err = filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return errSource.Errorf("read %s: %w", file, err)
		}
		if d.IsDir() {
			return nil
		}
		st, err := os.Stat(file)
		if err != nil {
			return errSource.Errorf("read %s: %w", file, err)
		}
		if st.IsDir() {
			return errSource.Errorf("%s is a link to a folder", file).WithNext("put that folder by itself")
		}
		s, err := regular(file, st)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, file)
		if err != nil {
			return errSource.Errorf("read %s: %w", file, err)
		}
		s.name = path.Join(prefix, filepath.ToSlash(rel))
		list = append(list, s)
		return nil
	})
	if err == nil && len(list) == 0 {
		err = errdef.Newf(errdef.NotFound, "cli.no_source", "%s holds no files", dir)
	}
	return list, false, err
}

// put streams the sources.
func (a *app) put(ctx context.Context, t target, write *tarnv1.Write, sources []source) (*tarnv1.PutResponse, error) {
	total := int64(0)
	for _, s := range sources {
		if s.size < 0 || total < 0 {
			total = -1
		} else {
			total += s.size
		}
	}
	// A failure on this side must not leave the server waiting, nor let it publish half of the files.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := t.Files.Put(ctx)
	if err != nil {
		return nil, err
	}
	bar := a.err.Progress(total, "storing")
	defer bar.Done()
	send := func(m *tarnv1.PutRequest) error { return stream.Send(m) }
	err = send(&tarnv1.PutRequest{Event: &tarnv1.PutRequest_Write{Write: write}})
	buf := make([]byte, putBuffer)
	for i := 0; i < len(sources) && err == nil; i++ {
		if err = a.putOne(ctx, sources[i], buf, send, bar); err != nil && !errors.Is(err, io.EOF) {
			cancel(err)
			stream.CloseAndReceive() //nolint:errcheck // the error is ours
			return nil, err
		}
	}
	// io.EOF from Send says that the server has answered early: with an error.
	return stream.CloseAndReceive()
}

func (a *app) putOne(ctx context.Context, s source, buf []byte, send func(*tarnv1.PutRequest) error, bar *ui.Bar) error {
	var r io.Reader = interruptible{ctx, a.in}
	if s.file != "-" {
		f, err := os.Open(s.file)
		if err != nil {
			return errSource.Errorf("read %s: %w", s.file, err)
		}
		defer f.Close() //nolint:errcheck // read only
		r = f
	}
	if err := send(&tarnv1.PutRequest{Event: &tarnv1.PutRequest_Path{Path: s.name}}); err != nil {
		return err
	}
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			bar.Add(n)
			if err := send(&tarnv1.PutRequest{Event: &tarnv1.PutRequest_Data{Data: buf[:n]}}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return errSource.Errorf("read %s: %w", s.file, err)
		}
	}
}

// interruptible ends a read of stdin, which may wait for ever, when ctx ends. The read that was under way
// keeps its own buffer: it may still come to an end.
type interruptible struct {
	ctx context.Context //nolint:containedctx // io.Reader has no other place for it
	r   io.Reader
}

func (i interruptible) Read(b []byte) (int, error) {
	type result struct {
		n   int
		err error
	}
	own, done := make([]byte, len(b)), make(chan result, 1)
	go func() {
		n, err := i.r.Read(own)
		done <- result{n, err}
	}()
	select {
	case got := <-done:
		return copy(b, own[:got.n]), got.err
	case <-i.ctx.Done():
		return 0, context.Cause(i.ctx)
	}
}
