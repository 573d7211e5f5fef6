package load

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/ids"
	"tarn.dev/tarn/internal/client"
)

// content is what a file holds: so many bytes of a generator.
type content struct {
	seed [32]byte
	size int64
}

func (c content) reader() io.Reader {
	return io.LimitReader(rand.NewChaCha8(c.seed), c.size)
}

// worker is one client.
type worker struct {
	*run
	folder string
	rng    *rand.Rand
	has    map[string]content
	next   int
}

// files are as many names as a client has.
const files = 200

func (w *worker) work(ctx context.Context, progress func(int64)) {
	for w.more(ctx) {
		op := w.weights[w.rng.IntN(len(w.weights))]
		if len(w.has) == 0 && (op == Get || op == List) {
			op = Put
		}
		if w.do(ctx, op) != nil && ctx.Err() != nil {
			break
		}
		progress(w.done.Add(1))
	}
	if ctx.Err() != nil {
		return
	}
	_ = w.measure(Verify, func() (int64, int64, error) { // it is noted
		read, _, err := w.list(ctx)
		for name := range w.has {
			if err == nil {
				var n int64
				n, err = w.compare(ctx, w.branch, name)
				read += n
			}
		}
		return read, 0, err
	})
}

// do does one operation and notes how long it took.
func (w *worker) do(ctx context.Context, op Operation) error {
	switch op {
	case Put:
		return w.measure(op, func() (int64, int64, error) { return w.put(ctx, w.branch, 1+w.rng.IntN(4)) })
	case Get:
		names := make([]string, 0, len(w.has))
		for name := range w.has {
			names = append(names, name)
		}
		slices.Sort(names) // so that a seed gives one sequence
		name := names[w.rng.IntN(len(names))]
		return w.measure(op, func() (int64, int64, error) {
			n, err := w.compare(ctx, w.branch, name)
			return n, 0, err
		})
	case List:
		return w.measure(op, func() (int64, int64, error) { return w.list(ctx) })
	case Log:
		return w.measure(op, func() (int64, int64, error) { return 0, 0, w.log(ctx) })
	case Branch:
		return w.measure(op, func() (int64, int64, error) {
			name := w.name()
			return 0, 0, errors.Join(w.create(ctx, name), w.delete(ctx, name))
		})
	}
	return w.merge(ctx)
}

func (w *worker) name() string {
	w.next++
	return fmt.Sprintf("%s-%s-%d", w.branch, strings.Trim(strings.TrimPrefix(w.folder, w.branch), "/"), w.next)
}

func (w *worker) write(into string) *tarnv1.Write {
	return &tarnv1.Write{RequestId: ids.Request(), Project: w.plan.Project, Into: into, Author: w.plan.Author, Message: "Load"}
}

func (w *worker) create(ctx context.Context, name string) error {
	_, err := w.client.History.CreateBranch(ctx, &tarnv1.CreateBranchRequest{RequestId: ids.Request(), Project: w.plan.Project, Name: name, From: w.branch})
	return client.Error(err)
}

func (w *worker) delete(ctx context.Context, name string) error {
	_, err := w.client.History.DeleteBranch(ctx, &tarnv1.DeleteBranchRequest{RequestId: ids.Request(), Project: w.plan.Project, Name: name})
	return client.Error(err)
}

// merge measures the merge; what it needs is measured beside it.
func (w *worker) merge(ctx context.Context) error {
	name := w.name()
	err := w.measure(Prepare, func() (int64, int64, error) {
		if err := w.create(ctx, name); err != nil {
			return 0, 0, err
		}
		return w.put(ctx, name, 1)
	})
	if err != nil {
		return err
	}
	return errors.Join(w.measure(Merge, func() (int64, int64, error) {
		got, err := w.client.History.Merge(ctx, &tarnv1.MergeRequest{Write: w.write(w.branch), Source: name})
		if err == nil && (len(got.GetConflicts()) > 0 || got.GetWritten() == nil) {
			err = fmt.Errorf("%s is the only one that writes to its folder, and its merge has %d conflicts", name, len(got.GetConflicts()))
		}
		return 0, 0, client.Error(err)
	}), w.delete(ctx, name))
}

// size is between the plan's limits, and as likely between 1 and 2 KiB as between 1 and 2 MiB.
func (w *worker) size() int64 {
	lo, hi := math.Log2(float64(max(w.plan.Min, 1))), math.Log2(float64(max(w.plan.Max, 1)))
	return max(w.plan.Min, min(w.plan.Max, int64(math.Exp2(lo+w.rng.Float64()*(hi-lo)))))
}

// part is how much of a file travels in one message.
const part = 256 << 10

// put stores some files as one commit. They are the client's from when the server said so.
func (w *worker) put(ctx context.Context, into string, count int) (_, written int64, err error) {
	fresh := map[string]content{}
	for range count {
		c := content{size: w.size()}
		for i := 0; i < len(c.seed); i += 8 {
			binary.LittleEndian.PutUint64(c.seed[i:], w.rng.Uint64())
		}
		fresh[fmt.Sprintf("%s%03d.bin", w.folder, w.rng.IntN(files))] = c
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // an unfinished stream stores nothing
	stream, err := w.client.Files.Put(ctx)
	if err != nil {
		return 0, 0, client.Error(err)
	}
	err = stream.Send(&tarnv1.PutRequest{Event: &tarnv1.PutRequest_Write{Write: w.write(into)}})
	buf := make([]byte, part)
	for name, c := range fresh {
		if err == nil {
			err = stream.Send(&tarnv1.PutRequest{Event: &tarnv1.PutRequest_Path{Path: name}})
		}
		for from := c.reader(); err == nil; {
			n, end := io.ReadFull(from, buf)
			if n > 0 {
				err = stream.Send(&tarnv1.PutRequest{Event: &tarnv1.PutRequest_Data{Data: buf[:n]}})
				written += int64(n)
			}
			if end != nil { // the generator has no errors
				break
			}
		}
	}
	got, cerr := stream.CloseAndReceive() // with the reason, if sending failed
	if cerr == nil && err == nil && got.GetFiles() != int64(len(fresh)) {
		err = fmt.Errorf("%d files were stored of %d", got.GetFiles(), len(fresh))
	}
	if cerr != nil {
		err = cerr
	}
	if err != nil {
		return 0, 0, client.Error(err)
	}
	for name, c := range fresh {
		w.has[name] = c
	}
	return 0, written, nil
}

// compare reads a file.
func (w *worker) compare(ctx context.Context, ref, name string) (read int64, err error) {
	stream, err := w.client.Files.Get(ctx, &tarnv1.GetRequest{Project: w.plan.Project, Ref: ref, Pattern: name, One: true})
	if err != nil {
		return 0, client.Error(err)
	}
	want, buf := w.has[name].reader(), []byte(nil)
	for stream.Receive() {
		data := stream.Msg().GetData()
		buf = slices.Grow(buf[:0], len(data))[:len(data)]
		if _, err := io.ReadFull(want, buf); err != nil || !bytes.Equal(data, buf) {
			return read, errors.Join(fmt.Errorf("%s is not what was stored, after byte %d", name, read), stream.Close())
		}
		read += int64(len(data))
	}
	err = errors.Join(client.Error(stream.Err()), stream.Close())
	if err == nil && read != w.has[name].size {
		err = fmt.Errorf("%s has %d bytes, and %d were stored", name, read, w.has[name].size)
	}
	return read, err
}

// list compares the names in the client's folder.
func (w *worker) list(ctx context.Context) (_, _ int64, err error) {
	stream, err := w.client.Files.List(ctx, &tarnv1.ListRequest{Project: w.plan.Project, Ref: w.branch, Pattern: w.folder, Recursive: true})
	if err != nil {
		return 0, 0, client.Error(err)
	}
	found := 0
	for stream.Receive() {
		f := stream.Msg().GetFile()
		if c, ok := w.has[f.GetName()]; !ok || c.size != f.GetSize() {
			return 0, 0, errors.Join(fmt.Errorf("%s is there with %d bytes, and should not be so", f.GetName(), f.GetSize()), stream.Close())
		}
		found++
	}
	err = errors.Join(client.Error(stream.Err()), stream.Close())
	if err == nil && found != len(w.has) {
		err = fmt.Errorf("%d of %d files are there in %s", found, len(w.has), w.folder)
	}
	return 0, 0, err
}

func (w *worker) log(ctx context.Context) error {
	stream, err := w.client.History.Log(ctx, &tarnv1.LogRequest{Project: w.plan.Project, Ref: w.branch, Limit: 10})
	if err != nil {
		return client.Error(err)
	}
	n := 0
	for stream.Receive() {
		n++
	}
	err = errors.Join(client.Error(stream.Err()), stream.Close())
	if err == nil && n == 0 {
		err = fmt.Errorf("%s has no commits", w.branch)
	}
	return err
}
