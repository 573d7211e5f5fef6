package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/cli/ui"
)

// callJSON is a call in --json.
type callJSON struct {
	ID       string     `json:"id"`
	Function string     `json:"function"`
	State    string     `json:"state"`
	Inputs   int64      `json:"inputs"`
	Done     int64      `json:"done"`
	Failed   int64      `json:"failed"`
	Created  time.Time  `json:"created"`
	Ended    *time.Time `json:"ended,omitempty"`
	Author   string     `json:"author"`
	Parent   string     `json:"parent,omitempty"`
}

func callDocuments(calls []*tarnv1.Call) []callJSON {
	docs := []callJSON{}
	for _, c := range calls {
		doc := callJSON{
			ID: c.GetId(), Function: c.GetFunction(), State: c.GetState(), Inputs: c.GetInputs(), Done: c.GetDone(), Failed: c.GetFailed(),
			Created: c.GetCreated().AsTime(), Author: c.GetAuthor(), Parent: c.GetParent(),
		}
		if c.GetEnded() != nil {
			ended := c.GetEnded().AsTime()
			doc.Ended = &ended
		}
		docs = append(docs, doc)
	}
	return docs
}

// callTable shows calls, if there are any.
func (a *app) callTable(calls []*tarnv1.Call) {
	if len(calls) == 0 {
		return
	}
	var rows [][]string
	for _, c := range calls {
		rows = append(rows, []string{
			a.out.ID(c.GetId()), a.runState(c.GetState()), a.out.Time(c.GetCreated().AsTime()), lasted(c.GetCreated(), c.GetEnded()), ui.Clean(c.GetAuthor()),
			ui.Clean(c.GetFunction()), callInputs(c),
		})
	}
	a.out.Table(columns("call", "state", "started", ">took", "author", "function", ">inputs"), rows)
}

// failureJSON is why an input failed, in --json.
type failureJSON struct {
	Input     int64  `json:"input"`
	Code      string `json:"code"`
	Reason    string `json:"reason"`
	Message   string `json:"message"`
	Class     string `json:"class"`
	Traceback string `json:"traceback"`
}

// showCall describes a call, with why the first of its inputs failed.
func (a *app) showCall(ctx context.Context, t target, id string) error {
	got, err := t.Calls.Get(ctx, &tarnv1.GetCallRequest{Project: t.project, Call: id})
	if err != nil {
		return err
	}
	c, failures := got.GetCall(), []failureJSON{}
	for _, f := range got.GetFailures() {
		e := f.GetError()
		failures = append(failures, failureJSON{Input: f.GetIndex(), Code: e.GetCode(), Reason: e.GetReason(), Message: e.GetMessage(), Class: e.GetClass(), Traceback: e.GetTraceback()})
	}
	a.print(map[string]any{"kind": "call", "name": id, "call": callDocuments([]*tarnv1.Call{c})[0], "failures": failures}, func() {
		a.out.Printf("call %s\n", a.out.Bold(id))
		a.out.Printf("function %s\n", ui.Clean(c.GetFunction()))
		a.out.Printf("state    %s\n", a.runState(c.GetState()))
		a.out.Printf("author   %s\n", ui.Clean(c.GetAuthor()))
		if c.GetParent() != "" {
			a.out.Printf("begun by %s\n", a.out.ID(c.GetParent()))
		}
		a.out.Printf("started  %s, took %s\n", a.out.Time(c.GetCreated().AsTime()), lasted(c.GetCreated(), c.GetEnded()))
		a.out.Printf("inputs   %s\n", callInputs(c))
		a.out.Printf("python   %s\n", ui.Clean(c.GetPython()))
		a.out.Printf("level    %s\n", c.GetLevel())
		for _, f := range failures {
			a.out.Printf("\n%s %s\n", a.out.Bad(fmt.Sprintf("input %d failed:", f.Input)), ui.Clean(f.Message))
			for line := range strings.Lines(f.Traceback) {
				a.out.Printf("  %s\n", ui.Clean(strings.TrimSuffix(line, "\n")))
			}
		}
		if more := c.GetFailed() - int64(len(failures)); more > 0 {
			a.out.Printf("\nand %d more\n", more)
		}
	})
	return nil
}

// callInputs says how far a call is.
func callInputs(c *tarnv1.Call) string {
	inputs := fmt.Sprintf("%d of %d", c.GetDone(), c.GetInputs())
	if c.GetFailed() > 0 {
		inputs += fmt.Sprintf(", %d failed", c.GetFailed())
	}
	return inputs
}

func (a *app) cancelCall(ctx context.Context, t target, id string) error {
	resp, err := t.Calls.Cancel(ctx, &tarnv1.CancelCallRequest{Project: t.project, Call: id})
	if err != nil {
		return err
	}
	call := resp.GetCall()
	a.print(map[string]any{"call": callDocuments([]*tarnv1.Call{call})[0]}, func() {
		if call.GetState() == "canceled" {
			a.note("%s is canceled", a.err.ID(id))
		} else {
			a.note("%s had ended before: it %s", a.err.ID(id), call.GetState())
		}
	})
	return nil
}

// longestLine is how much of a line without end is printed at once.
const longestLine = 64 << 10

// callLogs prints what a call's function printed, line by line; with several inputs each line says which one it is of.
func (a *app) callLogs(ctx context.Context, t target, id string, follow bool) error {
	got, err := t.Calls.Get(ctx, &tarnv1.GetCallRequest{Project: t.project, Call: id})
	if err != nil {
		return err
	}
	labelled := got.GetCall().GetInputs() != 1
	show := func(o *tarnv1.CallOutput, line string) {
		switch {
		case a.json:
			a.line(map[string]any{"event": "log", "call": id, "input": o.GetIndex(), "stream": o.GetStream(), "message": line})
		case labelled:
			a.out.Printf("%s %s\n", stepLabel(a.out, fmt.Sprint(o.GetIndex())), ui.Clean(line))
		default:
			a.out.Printf("%s\n", ui.Clean(line))
		}
	}
	type source struct {
		index  int64
		stream string
	}
	begun := map[source]*tarnv1.CallOutput{} // lines without their end
	stream, err := t.Calls.Logs(ctx, &tarnv1.CallLogsRequest{Project: t.project, Call: id, Follow: follow})
	if err != nil {
		return err
	}
	err = recv(stream, func(m *tarnv1.CallLogsResponse) error {
		o := m.GetOutput()
		from := source{o.GetIndex(), o.GetStream()}
		text := begun[from].GetText() + o.GetText()
		delete(begun, from)
		for text != "" {
			line, rest, whole := strings.Cut(text, "\n")
			if !whole && len(line) < longestLine {
				begun[from] = &tarnv1.CallOutput{Index: o.GetIndex(), Stream: o.GetStream(), Text: line}
				break
			}
			show(o, strings.TrimSuffix(line, "\r"))
			text = rest
		}
		return nil
	})
	for _, o := range begun {
		show(o, o.GetText())
	}
	if err != nil || !a.json {
		return err
	}
	a.line(map[string]any{"event": "result"})
	return nil
}
