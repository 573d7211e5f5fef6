package cli

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
	"tarn.dev/tarn/internal/client"
	"tarn.dev/tarn/internal/client/clienttree"
	"tarn.dev/tarn/internal/fusefs"
)

func (a *app) mountCommand() *cobra.Command {
	return codes(&cobra.Command{
		Use:   "mount REF DIR",
		Short: "Show the files of a commit as a folder, until Ctrl-C",
		Long: `Show the files of a commit as a folder of this host: read-only, fetched when they are read. The commit
is the one that REF names now; a branch that moves on does not change what is mounted. DIR is empty, or made. It ends
with Ctrl-C, or with umount DIR.`,
		GroupID: groupData,
		Example: "  tarn mount main data\n  tarn mount v1.0 /tmp/v1 &",
		Args:    args(2, 2),
		RunE:    func(c *cobra.Command, args []string) error { return a.mount(c.Context(), args[0], args[1]) },
	}, errdef.NotFound, errdef.FailedPrecondition, errdef.PermissionDenied)
}

func (a *app) mount(ctx context.Context, ref, dir string) error {
	t, err := a.reach(ctx)
	if err != nil {
		return err
	}
	resolved, err := t.History.Resolve(ctx, &tarnv1.ResolveRequest{Project: t.project, Ref: ref})
	if err != nil {
		return err
	}
	commit := resolved.GetCommit()
	dead, err := fusefs.Prepare(dir)
	if dead {
		a.note("%s was a mount whose process is gone: taken away", ui.Clean(dir))
	}
	if err != nil {
		return err
	}
	debug.SetGCPercent(50) // blocks come and go for as long as it is mounted
	tree := clienttree.New(t.Client, t.project, commit.GetId(), a.reconnect)
	defer tree.Close()
	m := fusefs.New(dir, tree, fusefs.Options{
		Source: fmt.Sprintf("tarn:%s@%s", t.project, short(commit.GetId())), Time: commit.GetTime().AsTime(), Report: a.reportMount(),
	})
	if err := m.Start(ctx); err != nil {
		return err
	}
	a.print(map[string]any{"dir": dir, "ref": ref, "commit": commitDocument(commit)}, func() {
		a.note("%s @ %s is mounted on %s; Ctrl-C or umount ends it", ref, a.err.ID(short(commit.GetId())), ui.Clean(dir))
	})
	<-m.Done()
	if err := m.Stop(); err != nil {
		return err
	}
	a.note("unmounted %s", ui.Clean(dir))
	return nil
}

// reconnect finds or starts the server again.
func (a *app) reconnect(ctx context.Context) (*client.Client, error) {
	again := &app{}
	return again.connect(ctx)
}

// reportMount prints what went wrong with a mount, and not again and again: a program that meets an error reads again.
func (a *app) reportMount() func(path string, err error) {
	last := make(chan string, 1)
	last <- ""
	return func(path string, err error) {
		e := errdef.As(client.Error(err))
		line := e.Message
		if e.Reason == "lake.ref_not_found" {
			line += ": it was collected, for no branch or tag led to it. Tag what is to stay"
		}
		if path != "" {
			line = path + ": " + line
		}
		if before := <-last; before != line {
			a.err.Printf("%s %s\n", a.err.Bad("error:"), ui.Clean(line))
		}
		last <- line
	}
}
