package flow_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow"
	"tarn.dev/tarn/internal/lake"
)

// change publishes what a client does to a tree.
func (p *place) change(do func(tx *lake.Tx, file lake.Entry)) error {
	_, err := p.Publish(context.Background(), flow.Publication{
		Branch: "main", Info: lake.CommitInfo{Message: "Change"},
		Change: func(ctx context.Context, tx *lake.Tx) error {
			ref, err := tx.Batch().PutFile(ctx, strings.NewReader("from a client"))
			if err == nil {
				do(tx, lake.FileEntry(ref))
			}
			return err
		},
	})
	return err
}

const folders = `import tarn

@tarn.asset
def thumbs(out: tarn.OutputDir):
    (out / "a.txt").write_text("a")
`

// What an asset makes changes by its runs only, whichever writer tries, and the error names the asset.
func TestClientsKeepOffAssets(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "pipeline.py", folders, "numbers.sql", "SELECT 1 AS one\n")
	p.on("main")
	before := p.head()
	for name, do := range map[string]func(tx *lake.Tx, file lake.Entry){
		"a new file in its folder": func(tx *lake.Tx, file lake.Entry) { tx.Put(lake.FileKey("thumbs/deep/b.txt"), file) },
		"a file of its folder":     func(tx *lake.Tx, file lake.Entry) { tx.Put(lake.FileKey("thumbs/a.txt"), file) },
		"removal of a file":        func(tx *lake.Tx, _ lake.Entry) { tx.Delete(lake.FileKey("thumbs/a.txt")) },
		"its folder":               func(tx *lake.Tx, file lake.Entry) { tx.Put(lake.FileKey("thumbs"), file) },
		"removal of its table":     func(tx *lake.Tx, _ lake.Entry) { tx.Delete(lake.TableKey(lake.DefaultNamespace, "numbers")) },
	} {
		err := p.change(do)
		if !errors.Is(err, flow.ErrAssetOwned) || p.head() != before {
			t.Errorf("%s: %v, want a refusal and no commit", name, err)
			continue
		}
		e := errdef.As(err)
		asset, _ := e.Details["asset"].(string)
		if asset == "" || !strings.Contains(e.Message, "asset "+asset) || !strings.Contains(strings.Join(e.Next, "\n"), "tarn asset rm "+asset+" --into main") {
			t.Errorf("%s: %q, next %q: want the asset and how to take it off", name, e.Message, e.Next)
		}
	}
	// Beside it, and once the asset is gone, everybody may write.
	if err := p.change(func(tx *lake.Tx, file lake.Entry) { tx.Put(lake.FileKey("thumbs2/a.txt"), file) }); err != nil {
		t.Error(err)
	}
	if _, _, err := p.RemoveAssets(t.Context(), "main", lake.CommitInfo{Message: "Remove"}, []string{"thumbs"}); err != nil {
		t.Fatal(err)
	}
	if err := p.change(func(tx *lake.Tx, file lake.Entry) { tx.Put(lake.FileKey("thumbs/a.txt"), file) }); err != nil {
		t.Error(err)
	}
}

// An asset does not take over what clients wrote, and says so before it runs.
func TestAssetsKeepOffClients(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]string{"a file of its name": "thumbs", "a file in its folder": "thumbs/deep/x.txt"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, "pipeline.py", folders)
			p.putOn("main", key, "x")
			before := p.head()
			o := p.run(p.request())
			if errdef.As(o.Error).Reason != "run.not_an_asset" || !strings.Contains(o.Error.Error(), key+" was written by a client") || p.head() != before {
				t.Errorf("%s: %v", o.states(), o.Error)
			}
			if _, err := p.Plan(t.Context(), p.request()); errdef.As(err).Reason != "run.not_an_asset" {
				t.Errorf("the plan says %v", err)
			}
		})
	}
}
