package cli

import (
	"strings"
	"time"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/cli/ui"
)

// shortLength is how much of an id people see; the server takes any unique prefix.
const shortLength = 7

func short(id string) string { return id[:min(len(id), shortLength)] }

func columns(names ...string) []ui.Column {
	list := make([]ui.Column, len(names))
	for i, n := range names {
		// A name that begins with ">" stands at the right: numbers do.
		list[i].Name, list[i].Right = strings.CutPrefix(n, ">")
	}
	return list
}

// commitJSON is a commit in every document.
type commitJSON struct {
	ID      string    `json:"id"`
	Parents []string  `json:"parents"`
	Cut     []string  `json:"cut,omitempty"` // parents that retention has removed
	Author  string    `json:"author"`
	Message string    `json:"message"`
	Time    time.Time `json:"time"`
	Run     string    `json:"run,omitempty"`
}

func commitDocument(c *tarnv1.Commit) *commitJSON {
	if c == nil {
		return nil
	}
	parents := c.GetParents()
	if parents == nil {
		parents = []string{}
	}
	return &commitJSON{c.GetId(), parents, c.GetCut(), c.GetAuthor(), c.GetMessage(), c.GetTime().AsTime(), c.GetRun()}
}

// headline is the first line of a commit's message.
func headline(c *tarnv1.Commit) string {
	line, _, _ := strings.Cut(c.GetMessage(), "\n")
	return ui.Clean(line)
}

// writtenJSON is the outcome of a write in every document.
type writtenJSON struct {
	Branch  string      `json:"branch"`
	Commit  *commitJSON `json:"commit"`
	Changed bool        `json:"changed"`
}

func writtenDocument(w *tarnv1.Written) *writtenJSON {
	if w == nil {
		return nil
	}
	return &writtenJSON{w.GetBranch(), commitDocument(w.GetCommit()), w.GetChanged()}
}

// arrow says where a write went.
func (a *app) arrow(w *tarnv1.Written) {
	if !w.GetChanged() {
		a.note("nothing changed: %s @ %s", w.GetBranch(), a.err.ID(short(w.GetCommit().GetId())))
		return
	}
	a.note("-> %s @ %s", w.GetBranch(), a.err.ID(short(w.GetCommit().GetId())))
}

// entryJSON is a table, file or definition in every document.
type entryJSON struct {
	Name       string            `json:"name"`
	Kind       string            `json:"kind"`
	Version    string            `json:"version"`
	Size       int64             `json:"size"`
	Rows       *int64            `json:"rows,omitempty"`
	Schema     string            `json:"schema,omitempty"`
	Properties map[string]string `json:"properties,omitempty"`
}

func entryDocument(e *tarnv1.Entry) *entryJSON {
	if e == nil {
		return nil
	}
	doc := &entryJSON{Name: e.GetName(), Kind: e.GetKind(), Version: e.GetVersion(), Size: e.GetSize(), Schema: e.GetSchema(), Properties: e.GetProperties()}
	if e.GetKind() == "table" {
		rows := e.GetRows()
		doc.Rows = &rows
	}
	return doc
}

// changeJSON is one difference in every document.
type changeJSON struct {
	Key    string     `json:"key"`
	Name   string     `json:"name"`
	Change string     `json:"change"` // added, removed, changed
	Before *entryJSON `json:"before"`
	After  *entryJSON `json:"after"`
}

func changeDocument(c *tarnv1.Change) changeJSON {
	doc := changeJSON{Key: c.GetKey(), Before: entryDocument(c.GetBefore()), After: entryDocument(c.GetAfter()), Change: "changed"}
	switch {
	case c.GetBefore() == nil:
		doc.Change = "added"
	case c.GetAfter() == nil:
		doc.Change = "removed"
	}
	doc.Name = changed(c).GetName()
	return doc
}

func changed(c *tarnv1.Change) *tarnv1.Entry {
	if c.GetAfter() != nil {
		return c.GetAfter()
	}
	return c.GetBefore()
}

// changeLine is one difference for people.
func changeLine(out ui.Out, c *tarnv1.Change) string {
	e := changed(c)
	name := e.GetKind() + " " + ui.Clean(e.GetName())
	if e.GetKind() == "folder" {
		name += "/"
	}
	switch changeDocument(c).Change {
	case "added":
		return out.Good("+ "+name) + "  " + amount(e)
	case "removed":
		return out.Bad("- "+name) + "  " + amount(e)
	}
	if from, to := amount(c.GetBefore()), amount(c.GetAfter()); from != to {
		return out.Warn("~ "+name) + "  " + from + " -> " + to
	}
	return out.Warn("~ "+name) + "  " + amount(e)
}

func amount(e *tarnv1.Entry) string {
	switch e.GetKind() {
	case "table":
		return ui.Count(e.GetRows(), "row")
	case "folder":
		return ui.Count(e.GetRows(), "file")
	}
	return ui.Size(e.GetSize())
}
