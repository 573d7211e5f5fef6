package flow

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/flow/memo"
	"tarn.dev/tarn/internal/lake"
)

// storedName is the name of something stored, or a hash.
func (h *holdings) storedName(word string) bool {
	in := func(prefix string) bool { return strings.HasPrefix(word, prefix) }
	return hashLike().MatchString(word) || in("packs/") || slices.ContainsFunc(h.Blobs(), in)
}

// whyStored says what keeps something stored.
func (f *Flow) whyStored(ctx context.Context, word string) (Answer, bool, error) {
	h := &holdings{f, now()}
	if !h.storedName(word) {
		return Answer{}, false, nil
	}
	t, err := f.lake.Trace(ctx, word, lake.CollectOptions{Keep: KeepDeleted, Holder: h})
	if t == nil || err != nil {
		return Answer{}, false, err
	}
	for i, r := range t.Roots {
		if strings.HasSuffix(r.Kind, "result") {
			t.Roots[i].Name = f.resultName(ctx, memo.Key(r.Name))
		}
	}
	return Answer{Sentence: heldSentence(word, t), Command: heldCommand(t), Held: t}, true, nil
}

// resultName is what made a result, as far as that is known.
func (f *Flow) resultName(ctx context.Context, key memo.Key) string {
	frag, err := f.memo.Lookup(ctx, key)
	if err != nil || frag == nil {
		return string(key)
	}
	p, err := memo.GetProvenance(ctx, f.lake, frag.Provenance)
	if err != nil || p == nil {
		return string(key)
	}
	return cmp.Or(p.Asset, p.Function, string(key))
}

func heldSentence(word string, t *lake.Trace) string {
	what := "the content"
	if t.What != "content" {
		what = "a " + t.What
	}
	if len(t.Keys) > 0 && t.What == "content" {
		what += " of " + manifest.List(t.Keys)
	} else if len(t.Keys) > 0 {
		what += " of what " + manifest.List(t.Keys) + " holds"
	}
	if len(t.Roots) == 0 {
		return fmt.Sprintf("%s is %s, and nothing leads to it: %s.", word, what, lets(t))
	}
	kept := t.Roots[0].Kind + " " + t.Roots[0].Name
	if more := len(t.Roots) - 1 + t.More; more > 0 {
		kept += fmt.Sprintf(", and %d more", more)
	}
	return fmt.Sprintf("%s is %s, kept alive by %s.", word, what, kept)
}

// lets says when something goes that nothing leads to.
func lets(t *lake.Trace) string {
	switch {
	case t.Condemned, t.Pack.IsZero(), 2*t.Needed < t.PackSize:
		return "the next collection frees it"
	}
	return "it goes with its pack, which is kept until less than half of it is needed"
}

func heldCommand(t *lake.Trace) string {
	if len(t.Roots) == 0 {
		return "tarn gc --dry-run"
	}
	switch r := t.Roots[0]; r.Kind {
	case "branch", "tag":
		return strings.TrimSpace("tarn log "+strings.Join(t.Keys[:min(1, len(t.Keys))], "")) + " --ref " + r.Name
	case "deleted branch":
		return "tarn branch log " + r.Name
	case "run", "step":
		return "tarn show " + r.Name
	}
	return "tarn gc --dry-run"
}
