package cli

import (
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/cli/ui"
)

// showOther describes what is neither a commit nor an entry of one; false for those.
func (a *app) showOther(resp *tarnv1.ShowResponse) bool {
	doc := map[string]any{"kind": resp.GetKind(), "name": resp.GetName()}
	switch {
	case resp.GetItem() != nil:
		it := resp.GetItem()
		doc["item"] = itemDocument(it)
		a.print(doc, func() { a.showItem(it) })
	case resp.GetEnvironment() != nil:
		e := resp.GetEnvironment()
		doc["environment"] = envDocuments([]*tarnv1.Environment{e})[0]
		a.print(doc, func() { a.showEnvironment(e) })
	case len(resp.GetHolders()) > 0:
		held := []map[string]any{}
		for _, h := range resp.GetHolders() {
			held = append(held, map[string]any{"what": h.GetWhat(), "name": h.GetName(), "ref": h.GetRef(), "hash": h.GetHash()})
		}
		doc["holders"] = held
		a.print(doc, func() { a.showHash(resp) })
	default:
		return false
	}
	return true
}

func itemDocument(it *tarnv1.Item) map[string]any {
	doc := map[string]any{
		"run": it.GetRun(), "step": it.GetStep(), "id": it.GetId(), "state": it.GetState(),
		"key": it.GetKey(), "made": it.GetMade(), "rows": it.GetRows(), "files": append([]string{}, it.GetFiles()...),
	}
	if e := it.GetError(); e != nil {
		doc["error"] = errorOf(e)
	}
	return doc
}

func (a *app) showItem(it *tarnv1.Item) {
	label := fmt.Sprintf("%s/%s/%s", it.GetRun(), it.GetStep(), it.GetId())
	a.out.Printf("item %s\n", a.out.Bold(ui.Clean(label)))
	a.out.Printf("state    %s\n", a.runState(it.GetState()))
	if e := it.GetError(); e != nil {
		a.out.Printf("error    %s\n", ui.Clean(firstLine(e.GetMessage())))
		a.note("next: tarn debug %s", ui.Clean(label))
		return
	}
	if it.GetMade() != "" {
		a.out.Printf("made by  %s\n", it.GetMade())
	}
	a.out.Printf("key      %s\n", it.GetKey())
	if it.GetRows() > 0 {
		a.out.Printf("rows     %s\n", humanize.Comma(it.GetRows()))
	}
	for _, file := range it.GetFiles() {
		a.out.Printf("file     %s\n", ui.Clean(file))
	}
}

func (a *app) showEnvironment(e *tarnv1.Environment) {
	a.out.Printf("environment %s\n", a.out.Bold(ui.Clean(e.GetName())))
	a.out.Printf("python   %s\n", ui.Clean(e.GetPython()))
	for _, r := range e.GetRequirements() {
		a.out.Printf("asks for %s\n", ui.Clean(r))
	}
	for _, index := range e.GetIndexes() {
		a.out.Printf("index    %s\n", ui.Clean(index))
	}
	if e.GetBuild() {
		a.out.Printf("build    allowed\n")
	}
	a.out.Printf("lock     %s\n", lockState(e))
	a.out.Printf("used by  %s\n", ui.Clean(strings.Join(e.GetFunctions(), ", ")))
	for _, p := range e.GetPackages() {
		a.out.Printf("package  %s\n", ui.Clean(p))
	}
}

func lockState(e *tarnv1.Environment) string {
	switch {
	case e.GetLock() == "":
		return "not yet: tarn env lock"
	case !e.GetReady():
		return short(e.GetLock()) + ", not installed on this host"
	}
	return short(e.GetLock()) + ", installed on this host"
}

func (a *app) showHash(resp *tarnv1.ShowResponse) {
	a.out.Printf("hash %s\n", a.out.Bold(resp.GetHolders()[0].GetHash()))
	for _, h := range resp.GetHolders() {
		a.out.Printf("%-10s %s\n", h.GetWhat(), ui.Clean(strings.TrimPrefix(h.GetName()+"@"+h.GetRef(), "@")))
	}
}
