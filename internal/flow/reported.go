package flow

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"

	"tarn.dev/tarn/internal/flow/memo"
)

// Bounds of what functions tell of their results: it is read by people, in rows that stay for good.
const (
	maxReported      = 100     // of one item, and of one step's row
	maxReportedValue = 1 << 10 // bytes of JSON
)

// report keeps what a message tells of the result; why says what could not be kept. A name that is told
// again has its latest value.
func (p *produced) report(m message) (why string) {
	values := m.Values
	if m.Type == "metric" {
		values = map[string]json.RawMessage{m.Name: m.Value}
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		r := memo.Reported{Kind: m.Type, Name: name, Value: compactJSON(values[name])}
		at := slices.IndexFunc(p.reported, func(o memo.Reported) bool { return o.Kind == r.Kind && o.Name == r.Name })
		switch {
		case len(r.Value) > maxReportedValue || len(name) > maxReportedValue:
			why = "a value of more than 1 KiB"
		case at >= 0:
			p.reported[at] = r
		case len(p.reported) == maxReported:
			why = "more than 100 names"
		default:
			p.reported = append(p.reported, r)
		}
	}
	return why
}

func compactJSON(v json.RawMessage) json.RawMessage {
	var b bytes.Buffer
	if json.Compact(&b, v) != nil {
		return json.RawMessage("null")
	}
	return b.Bytes()
}

// reported adds what an item told to its step's row.
func (lv *live) reported(step, item string, told []memo.Reported) {
	lv.mu.Lock()
	defer lv.mu.Unlock()
	st := lv.steps[step]
	for _, r := range told {
		if len(st.Reported) == maxReported {
			if !lv.toldAll[step] { // each item's provenance has its own
				lv.toldAll[step] = true
				lv.emitLocked(Event{Type: "log", Step: step, Stream: "stderr", Message: "tarn show lists the first 100 metrics and facts of this step; tarn provenance has each item's"})
			}
			return
		}
		st.Reported = append(st.Reported, StepReported{Item: item, Reported: r})
	}
}

// StepReported is what one item of a step told; without items Item is empty.
type StepReported struct {
	Item string `json:"item,omitempty"`
	memo.Reported
}
