package cli

import (
	"strings"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

func (a *app) forgetCommand() *cobra.Command {
	var yes bool
	c := codes(&cobra.Command{
		Use:   "forget NAME...",
		Short: "Free the content of tables and files for good, from every commit",
		Long: `Free the content of tables, files or folders (with a slash at the end) for good, from every branch and every
commit, with the results and logs that have to do with it. NAME@REF is one version, which no branch may have now. Without
--yes it shows what would go, and changes nothing. Names, versions and provenance stay; backups that were made before are
not touched.`,
		GroupID: groupHistory,
		Example: "  tarn forget people.csv              # show what would go\n  tarn forget people.csv --yes\n  tarn forget scans/ --yes\n  tarn forget visits@main~3 --yes",
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			stream, err := t.System.Forget(c.Context(), &tarnv1.ForgetRequest{Project: t.project, Names: args, Author: author(), DryRun: !yes})
			if err != nil {
				return err
			}
			got := &tarnv1.Forgotten{}
			err = recv(stream, func(m *tarnv1.ForgetResponse) error {
				if what := m.GetProgress(); what != "" {
					a.note("%s", ui.Clean(what))
				}
				if r := m.GetResult(); r != nil {
					got = r
				}
				return nil
			})
			if err != nil {
				return err
			}
			a.print(forgottenDocument(got, yes), func() { a.printForgotten(got, yes, args) })
			return nil
		},
	}, errdef.NotFound, errdef.InvalidArgument, errdef.FailedPrecondition, errdef.Unavailable, errdef.DataLoss)
	c.Flags().BoolVar(&yes, "yes", false, "do it: there is no way back")
	return c
}

type forgottenJSON struct {
	Done      bool                   `json:"done"`
	Contents  []forgottenContentJSON `json:"contents"`
	Branches  []string               `json:"branches"`
	Derived   []string               `json:"derived"`
	Spared    []string               `json:"spared"`
	Shared    []string               `json:"shared"`
	Elsewhere bool                   `json:"elsewhere"`
	Bytes     int64                  `json:"bytes"`
}

type forgottenContentJSON struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"`
	Version string `json:"version"`
	Size    int64  `json:"size"`
	Rows    int64  `json:"rows"`
	Commits int32  `json:"commits"`
}

func forgottenDocument(got *tarnv1.Forgotten, done bool) forgottenJSON {
	doc := forgottenJSON{
		Done: done, Contents: []forgottenContentJSON{}, Branches: orEmpty(got.GetBranches()), Derived: orEmpty(got.GetDerived()),
		Spared: orEmpty(got.GetSpared()), Shared: orEmpty(got.GetShared()), Elsewhere: got.GetElsewhere(), Bytes: got.GetFreed().GetBytes(),
	}
	for _, c := range got.GetContents() {
		doc.Contents = append(doc.Contents, forgottenContentJSON{c.GetName(), c.GetKind(), c.GetVersion(), c.GetSize(), c.GetRows(), c.GetCommits()})
	}
	return doc
}

func (a *app) printForgotten(got *tarnv1.Forgotten, done bool, names []string) {
	var rows [][]string
	for _, c := range got.GetContents() {
		rows = append(rows, []string{ui.Clean(c.GetName()), a.out.ID(short(c.GetVersion())), ui.Size(c.GetSize()), ui.Count(int64(c.GetCommits()), "commit")})
	}
	a.out.Table(columns("name", "version", ">size", ">in"), rows)
	verb := map[bool]string{true: "removed from", false: "on"}[done]
	for _, list := range []struct {
		what  string
		names []string
	}{
		{verb + " the branches", got.GetBranches()},
		{"made from it, and not forgotten", got.GetDerived()},
		{"put again meanwhile with the same content, and not forgotten", got.GetSpared()},
		{"the same content is also in, and stays with", got.GetShared()},
	} {
		if len(list.names) > 0 {
			a.note("%s: %s", list.what, ui.Clean(strings.Join(list.names, ", ")))
		}
	}
	if got.GetElsewhere() {
		a.note("the project's code, or a result of other data, has the same content: it stays with that")
	}
	if !done {
		a.note("nothing was changed; there is no way back from: tarn forget %s --yes", ui.Clean(strings.Join(names, " ")))
		return
	}
	a.note("forgotten; %s freed. Backups that were made before still have it", ui.Size(max(got.GetFreed().GetBytes(), 0)))
}
