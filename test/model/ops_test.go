//go:build fault

package model

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/ids"
	"tarn.dev/tarn/internal/client"
)

// content is what a file holds: so many bytes of a generator.
type content struct {
	Seed byte
	Size int64
}

func (c content) String() string { return fmt.Sprintf("%d bytes of %d", c.Size, c.Seed) }

func (c content) bytes() []byte {
	b := make([]byte, c.Size)
	_, _ = rand.NewChaCha8([32]byte{c.Seed}).Read(b) // never fails
	return b
}

// write is the head of a change: made once, so that a call that is repeated has the same request id.
func write(into, message string) *tarnv1.Write {
	return &tarnv1.Write{RequestId: ids.Request(), Project: project, Into: into, Author: "model", Message: message}
}

func (o *outcome) written(w *tarnv1.Written) {
	o.Changed, o.commit = w.GetChanged(), w.GetCommit().GetId()
}

func put(into string, files map[string]content) operation {
	w := write(into, "")
	return func(ctx context.Context, c *client.Client, _ *stack) (out outcome, err error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := c.Files.Put(ctx)
		if err != nil {
			return out, client.Error(err)
		}
		messages := []*tarnv1.PutRequest{{Event: &tarnv1.PutRequest_Write{Write: w}}}
		for name, content := range files {
			messages = append(messages, &tarnv1.PutRequest{Event: &tarnv1.PutRequest_Path{Path: name}})
			for part := range slices.Chunk(content.bytes(), 256<<10) {
				messages = append(messages, &tarnv1.PutRequest{Event: &tarnv1.PutRequest_Data{Data: part}})
			}
		}
		for _, m := range messages {
			if stream.Send(m) != nil {
				break // the answer says why
			}
		}
		got, err := stream.CloseAndReceive()
		if err != nil {
			return out, client.Error(err)
		}
		out.written(got.GetWritten())
		return out, nil
	}
}

func link(into, url, name string) operation {
	w := write(into, "")
	return func(ctx context.Context, c *client.Client, _ *stack) (out outcome, err error) {
		got, err := c.Files.Link(ctx, &tarnv1.LinkRequest{Write: w, Urls: []string{url}, To: name})
		out.written(got.GetWritten())
		return out, err
	}
}

func remove(into string, patterns ...string) operation {
	w := write(into, "")
	return func(ctx context.Context, c *client.Client, _ *stack) (out outcome, err error) {
		got, err := c.Files.Remove(ctx, &tarnv1.RemoveRequest{Write: w, Patterns: patterns})
		out.written(got.GetWritten())
		return out, err
	}
}

var schema = arrow.NewSchema([]arrow.Field{{Name: "id", Type: arrow.PrimitiveTypes.Int64, Nullable: true}, {Name: "v", Type: arrow.PrimitiveTypes.Int64, Nullable: true}}, nil)

type row struct{ ID, V int64 }

func arrowStream(rows []row) ([]byte, error) {
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer b.Release()
	for _, r := range rows {
		b.Field(0).(*array.Int64Builder).Append(r.ID)
		b.Field(1).(*array.Int64Builder).Append(r.V)
	}
	batch := b.NewRecordBatch()
	defer batch.Release()
	var buf bytes.Buffer
	w := ipc.NewWriter(&buf, ipc.WithSchema(schema))
	err := errors.Join(w.Write(batch), w.Close())
	return buf.Bytes(), err
}

func writeTable(into, table, mode string, rows []row) operation {
	w := write(into, "")
	return func(ctx context.Context, c *client.Client, _ *stack) (out outcome, err error) {
		data, err := arrowStream(rows)
		if err != nil {
			return out, err
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := c.Tables.Write(ctx)
		if err != nil {
			return out, client.Error(err)
		}
		head := &tarnv1.WriteTableHead{Write: w, Table: table, Mode: mode, Key: []string{"id"}}
		if stream.Send(&tarnv1.WriteTableRequest{Event: &tarnv1.WriteTableRequest_Head{Head: head}}) == nil {
			_ = stream.Send(&tarnv1.WriteTableRequest{Event: &tarnv1.WriteTableRequest_Data{Data: data}}) // the answer says why
		}
		got, err := stream.CloseAndReceive()
		if err != nil {
			return out, client.Error(err)
		}
		out.written(got.GetDone().GetWritten())
		return out, nil
	}
}

func importTable(into, table, mode, file string) operation {
	w := write(into, "")
	return func(ctx context.Context, c *client.Client, _ *stack) (out outcome, err error) {
		stream, err := c.Tables.Import(ctx, &tarnv1.ImportRequest{Write: w, Sources: []string{file}, Table: table, Mode: mode, Key: []string{"id"}})
		if err != nil {
			return out, client.Error(err)
		}
		err = each(stream, func(m *tarnv1.ImportResponse) error {
			if m.GetDone() != nil {
				out.written(m.GetDone().GetWritten())
			}
			return nil
		})
		return out, err
	}
}

func removeTable(into, table string) operation {
	w := write(into, "")
	return func(ctx context.Context, c *client.Client, _ *stack) (out outcome, err error) {
		got, err := c.Tables.Remove(ctx, &tarnv1.RemoveTablesRequest{Write: w, Tables: []string{table}})
		out.written(got.GetWritten())
		return out, err
	}
}

// query runs a statement; Seen has the rows.
func query(ref, into, sql string) operation {
	w := write(into, "")
	return func(ctx context.Context, c *client.Client, _ *stack) (out outcome, err error) {
		stream, err := c.Queries.Query(ctx, &tarnv1.QueryRequest{Write: w, Sql: sql, Ref: ref})
		if err != nil {
			return out, client.Error(err)
		}
		var data bytes.Buffer
		err = each(stream, func(m *tarnv1.QueryResponse) error {
			data.Write(m.GetData())
			if m.GetSummary().GetWritten() != nil {
				out.written(m.GetSummary().GetWritten())
			}
			return nil
		})
		if err != nil || data.Len() == 0 {
			return out, err
		}
		rd, err := ipc.NewReader(&data)
		if err != nil {
			return out, err
		}
		defer rd.Release()
		for rd.Next() {
			batch := rd.RecordBatch()
			for i := range int(batch.NumRows()) {
				var cells []string
				for _, column := range batch.Columns() {
					cells = append(cells, column.ValueStr(i))
				}
				out.Seen = append(out.Seen, strings.Join(cells, "="))
			}
		}
		return out, rd.Err()
	}
}

func createBranch(name, from string) operation {
	id := ids.Request()
	return func(ctx context.Context, c *client.Client, _ *stack) (out outcome, err error) {
		got, err := c.History.CreateBranch(ctx, &tarnv1.CreateBranchRequest{RequestId: id, Project: project, Name: name, From: from})
		out.commit = got.GetBranch().GetCommit().GetId()
		return out, err
	}
}

func deleteBranch(name string) operation {
	id := ids.Request()
	return func(ctx context.Context, c *client.Client, _ *stack) (out outcome, err error) {
		got, err := c.History.DeleteBranch(ctx, &tarnv1.DeleteBranchRequest{RequestId: id, Project: project, Name: name})
		out.commit = got.GetBranch().GetCommit().GetId()
		return out, err
	}
}

func createTag(name string, of *commit) operation {
	id := ids.Request()
	return func(ctx context.Context, c *client.Client, on *stack) (out outcome, err error) {
		got, err := c.History.CreateTag(ctx, &tarnv1.CreateTagRequest{RequestId: id, Project: project, Name: name, From: on.ids[of]})
		out.commit = got.GetTag().GetCommit().GetId()
		return out, err
	}
}

func deleteTag(name string) operation {
	id := ids.Request()
	return func(ctx context.Context, c *client.Client, _ *stack) (out outcome, err error) {
		got, err := c.History.DeleteTag(ctx, &tarnv1.DeleteTagRequest{RequestId: id, Project: project, Name: name})
		out.commit = got.GetTag().GetCommit().GetId()
		return out, err
	}
}

func mergeInto(into, source, message string, prefer map[string]string, dryRun bool) operation {
	w := write(into, message)
	return func(ctx context.Context, c *client.Client, _ *stack) (out outcome, err error) {
		got, err := c.History.Merge(ctx, &tarnv1.MergeRequest{Write: w, Source: source, Prefer: prefer, DryRun: dryRun})
		for _, change := range got.GetChanges() {
			out.Changes = append(out.Changes, change.GetKey())
		}
		for _, k := range got.GetConflicts() {
			out.Conflicts = append(out.Conflicts, conflict{k.GetKey(), k.GetReason()}.String())
		}
		out.written(got.GetWritten())
		return out, err
	}
}

func revert(into string, undo *commit) operation {
	w := write(into, "")
	return func(ctx context.Context, c *client.Client, on *stack) (out outcome, err error) {
		got, err := c.History.Revert(ctx, &tarnv1.RevertRequest{Write: w, Commit: on.ids[undo]})
		out.written(got.GetWritten())
		return out, err
	}
}

// get reads files; Seen has a sum of each.
func get(ref, pattern string) operation {
	return func(ctx context.Context, c *client.Client, _ *stack) (out outcome, err error) {
		stream, err := c.Files.Get(ctx, &tarnv1.GetRequest{Project: project, Ref: ref, Pattern: pattern})
		if err != nil {
			return out, client.Error(err)
		}
		name, data := "", []byte(nil)
		next := func(to string) {
			if name != "" {
				out.Seen = append(out.Seen, sum(name, data))
			}
			name, data = to, nil
		}
		err = each(stream, func(m *tarnv1.GetResponse) error {
			if m.GetFile() != nil {
				next(m.GetFile().GetEntry().GetName())
			}
			data = append(data, m.GetData()...)
			return nil
		})
		next("")
		return out, err
	}
}

// commits lists the ids of a ref's history.
func commits(ref string) operation {
	return func(ctx context.Context, c *client.Client, _ *stack) (out outcome, err error) {
		stream, err := c.History.Log(ctx, &tarnv1.LogRequest{Project: project, Ref: ref})
		if err != nil {
			return out, client.Error(err)
		}
		err = each(stream, func(m *tarnv1.LogResponse) error {
			out.Seen = append(out.Seen, m.GetCommit().GetId())
			return nil
		})
		return out, err
	}
}

// diff lists the keys that differ, with the version of each after.
func diff(from, to func(*stack) string) operation {
	return func(ctx context.Context, c *client.Client, on *stack) (out outcome, err error) {
		stream, err := c.History.Diff(ctx, &tarnv1.DiffRequest{Project: project, From: from(on), To: to(on)})
		if err != nil {
			return out, client.Error(err)
		}
		err = each(stream, func(m *tarnv1.DiffResponse) error {
			out.Changes = append(out.Changes, m.GetChange().GetKey())
			out.Seen = append(out.Seen, m.GetChange().GetAfter().GetVersion())
			return nil
		})
		return out, err
	}
}

// refs lists branches and tags, each with its commit.
func refs() operation {
	return func(ctx context.Context, c *client.Client, _ *stack) (out outcome, err error) {
		branches, err := c.History.ListBranches(ctx, &tarnv1.ListBranchesRequest{Project: project})
		if err != nil {
			return out, err
		}
		tags, err := c.History.ListTags(ctx, &tarnv1.ListTagsRequest{Project: project})
		for _, r := range append(branches.GetBranches(), tags.GetTags()...) {
			if !strings.HasPrefix(r.GetName(), "run/") {
				out.Seen = append(out.Seen, r.GetName()+" "+r.GetCommit().GetId())
			}
		}
		return out, err
	}
}

func collect(dryRun bool) operation {
	return func(ctx context.Context, c *client.Client, _ *stack) (out outcome, err error) {
		keep := int64(0)
		stream, err := c.System.Collect(ctx, &tarnv1.CollectRequest{Project: project, KeepSeconds: &keep, DryRun: dryRun})
		if err != nil {
			return out, client.Error(err)
		}
		err = each(stream, func(m *tarnv1.CollectResponse) error {
			if r := m.GetResult(); r != nil && dryRun {
				out.Seen = append(out.Seen, fmt.Sprintf("%d commits, %d packs, %d blobs, %d bytes", r.GetCommits(), r.GetPacks(), r.GetBlobs(), r.GetBytes()))
			}
			return nil
		})
		return out, err
	}
}

func fsck() operation {
	return func(ctx context.Context, c *client.Client, _ *stack) (out outcome, err error) {
		stream, err := c.System.Fsck(ctx, &tarnv1.FsckRequest{Project: project, Deep: true, External: true})
		if err != nil {
			return out, client.Error(err)
		}
		err = each(stream, func(m *tarnv1.FsckResponse) error {
			if p := m.GetProblem(); p != nil {
				out.Seen = append(out.Seen, fmt.Sprintf("%s %s: %s", p.GetReason(), p.GetObject(), p.GetMessage()))
			}
			return nil
		})
		return out, err
	}
}

func backUp(to func(*stack) string) operation {
	return func(ctx context.Context, c *client.Client, on *stack) (out outcome, err error) {
		stream, err := c.System.Backup(ctx, &tarnv1.BackupRequest{To: to(on)})
		if err != nil {
			return out, client.Error(err)
		}
		return out, each(stream, func(*tarnv1.BackupResponse) error { return nil })
	}
}

// run runs the assets of a project folder on a branch and waits for the end.
func run(branch, dir string) operation {
	id := "model-" + strings.ToLower(ids.Request())
	return func(ctx context.Context, c *client.Client, _ *stack) (out outcome, err error) {
		spec := &tarnv1.RunSpec{Project: project, Dir: dir, Ref: branch, Into: branch, Author: "model"}
		for attempt := 0; ; attempt++ {
			started, err := c.Runs.Start(ctx, &tarnv1.StartRunRequest{RequestId: fmt.Sprint(id, attempt), RunId: fmt.Sprint(id, "-", attempt), Spec: spec})
			if err != nil {
				return out, err
			}
			stream, err := c.Runs.Events(ctx, &tarnv1.RunEventsRequest{Project: project, Run: started.GetRun().GetId()})
			if err != nil {
				return out, client.Error(err)
			}
			var ended *tarnv1.Run
			err = each(stream, func(m *tarnv1.RunEventsResponse) error {
				if m.GetRun() != nil {
					ended = m.GetRun()
				}
				return nil
			})
			switch {
			case err != nil:
				return out, err
			case ended.GetState() == "succeeded":
				out.commit = ended.GetCommit()
				return out, nil
			case ended.GetError() != nil && ended.GetError().GetReason() != "run.interrupted":
				out.Reason = ended.GetError().GetReason()
				return out, nil
			}
			// Its server has ended, and another one may not know it yet, and tell of the run as it was: from here it is another run.
		}
	}
}

// each hands all messages of a stream on.
func each[T any](stream *connect.ServerStreamForClient[T], do func(*T) error) error {
	for stream.Receive() {
		if err := do(stream.Msg()); err != nil {
			return errors.Join(err, stream.Close())
		}
	}
	return errors.Join(client.Error(stream.Err()), stream.Close())
}
