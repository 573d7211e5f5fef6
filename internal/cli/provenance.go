package cli

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

func (a *app) provenanceCommand() *cobra.Command {
	var ref string
	var forward bool
	c := codes(&cobra.Command{
		Use:   "provenance X",
		Short: "Show what a table or file was made from, back to the imports",
		Long: `Show what a table or file was made from: the function, run and code that made it, and the same
for each of its inputs, back to what was imported. With --forward: what was made from it.`,
		GroupID: groupHistory,
		Example: "  tarn provenance delays\n  tarn provenance flights --forward\n  tarn provenance delays@v1.0 --json",
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			resp, err := t.Runs.Provenance(c.Context(), &tarnv1.ProvenanceRequest{Project: t.project, Ref: t.ref(ref), Target: args[0], Forward: forward})
			if err != nil {
				return err
			}
			docs := []provenanceJSON{}
			for _, n := range resp.GetNodes() {
				docs = append(docs, provenanceDocument(n))
			}
			a.print(map[string]any{"nodes": docs}, func() { a.showProvenance(resp.GetNodes(), forward) })
			return nil
		},
	}, errdef.NotFound, errdef.DataLoss)
	c.Flags().StringVar(&ref, "ref", "", "the `REF` to look in (default: the current branch)")
	c.Flags().BoolVar(&forward, "forward", false, "show what was made from it instead")
	return c
}

type provenanceJSON struct {
	Name        string            `json:"name"`
	Kind        string            `json:"kind"` // step, import, write, unknown
	Version     string            `json:"version"`
	Commit      string            `json:"commit,omitempty"`
	Run         string            `json:"run,omitempty"`
	Author      string            `json:"author,omitempty"`
	Time        *time.Time        `json:"time,omitempty"`
	Function    string            `json:"function,omitempty"`
	File        string            `json:"file,omitempty"`
	Key         string            `json:"key,omitempty"`
	Code        []string          `json:"code"`
	Environment string            `json:"environment,omitempty"`
	Params      map[string]string `json:"params,omitempty"`
	Inputs      []string          `json:"inputs"`
	Sources     []string          `json:"sources"`
	Statement   string            `json:"statement,omitempty"`
	Reported    []reportedJSON    `json:"reported"`
}

func provenanceDocument(n *tarnv1.ProvenanceNode) provenanceJSON {
	doc := provenanceJSON{
		Name: n.GetName(), Kind: n.GetKind(), Version: n.GetVersion(), Commit: n.GetCommit(), Run: n.GetRun(), Author: n.GetAuthor(),
		Function: n.GetFunction(), File: n.GetFile(), Key: n.GetKey(), Code: orEmpty(n.GetCode()), Environment: n.GetEnvironment(),
		Params: n.GetParams(), Inputs: orEmpty(n.GetInputs()), Sources: orEmpty(n.GetSources()), Statement: n.GetStatement(), Reported: reportedDocuments(n.GetReported()),
	}
	if n.GetTime() != nil {
		when := n.GetTime().AsTime()
		doc.Time = &when
	}
	return doc
}

// showProvenance prints a tree. What is reached on two ways is spelt out once.
func (a *app) showProvenance(nodes []*tarnv1.ProvenanceNode, forward bool) {
	if len(nodes) == 0 {
		return
	}
	next := func(n *tarnv1.ProvenanceNode) []*tarnv1.ProvenanceNode {
		return slices.DeleteFunc(slices.Clone(nodes), func(m *tarnv1.ProvenanceNode) bool {
			if forward {
				return m == n || !slices.Contains(m.GetInputs(), n.GetName())
			}
			return m == n || !slices.Contains(n.GetInputs(), m.GetName())
		})
	}
	seen := map[*tarnv1.ProvenanceNode]bool{}
	var show func(n *tarnv1.ProvenanceNode, depth int)
	show = func(n *tarnv1.ProvenanceNode, depth int) {
		indent := strings.Repeat("  ", depth)
		if seen[n] {
			a.out.Printf("%s%s  %s\n", indent, ui.Clean(n.GetName()), a.out.Dim("(above)"))
			return
		}
		seen[n] = true
		a.out.Printf("%s%s  %s\n", indent, a.out.Bold(ui.Clean(n.GetName())), a.made(n))
		for _, r := range n.GetReported() {
			a.out.Printf("%s  %s\n", indent, a.out.Dim(ui.Clean(r.GetName())+" = "+reportedText(r)))
		}
		for _, m := range next(n) {
			show(m, depth+1)
		}
	}
	show(nodes[0], 0)
	if forward && len(nodes) == 1 {
		a.note("nothing was made from %s", ui.Clean(nodes[0].GetName()))
	}
}

// made says in one line how something came about.
func (a *app) made(n *tarnv1.ProvenanceNode) string {
	switch n.GetKind() {
	case "step":
		text := "made by " + n.GetFunction() + " (" + n.GetFile() + ") in " + a.out.ID(n.GetRun())
		for _, name := range sortedKeys(n.GetParams()) {
			if !strings.HasPrefix(name, "\x00") {
				text += ", " + name + "=" + ui.Clean(n.GetParams()[name])
			}
		}
		return text
	case "import":
		return "imported from " + ui.Clean(strings.Join(n.GetSources(), ", "))
	case "write":
		return "written by " + ui.Clean(n.GetAuthor()) + ": " + ui.Clean(firstLine(n.GetStatement()))
	}
	return a.out.Dim("put by a client")
}
