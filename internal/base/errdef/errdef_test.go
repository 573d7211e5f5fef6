package errdef_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/base/errdef"
)

var errBranch = errdef.New(errdef.NotFound, "lake.branch_not_found", "branch not found")

func TestIs(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("merge: %w", errBranch.Errorf("branch %q not found", "dev"))
	if !errors.Is(err, errBranch) {
		t.Error("a copy of a sentinel is not that sentinel")
	}
	if errors.Is(err, errdef.New(errdef.NotFound, "lake.tag_not_found", "")) {
		t.Error("another reason of the same code matches")
	}
	if got := errBranch.Error(); got != "branch not found" {
		t.Errorf("Errorf changed the sentinel: %q", got)
	}
}

func TestErrorfKeepsCause(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"Errorf": errBranch.Errorf("read dev: %w", io.ErrUnexpectedEOF),
		"Newf":   errdef.Newf(errdef.DataLoss, "x.short", "read dev: %w", io.ErrUnexpectedEOF),
	} {
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: the cause is lost", name)
		}
		if err.Error() != "read dev: unexpected EOF" {
			t.Errorf("%s: message %q", name, err)
		}
	}
}

func TestAs(t *testing.T) {
	t.Parallel()
	canceled, cancel := context.WithCancelCause(t.Context())
	cancel(nil)
	for _, c := range []struct {
		name string
		err  error
		code errdef.Code
		want string
	}{
		{"own", errBranch, errdef.NotFound, "branch not found"},
		{"wrapped keeps the wrapper's facts", fmt.Errorf("merge dev: %w", errBranch), errdef.NotFound, "merge dev: branch not found"},
		{"unknown is internal", io.EOF, errdef.Internal, "EOF"},
		{"canceled", fmt.Errorf("wait: %w", context.Cause(canceled)), errdef.Canceled, "wait: context canceled"},
		{"deadline", context.DeadlineExceeded, errdef.DeadlineExceeded, "context deadline exceeded"},
		{"outermost code counts", errdef.Newf(errdef.UserCode, "x", "step: %w", errBranch), errdef.UserCode, "step: branch not found"},
	} {
		e := errdef.As(c.err)
		if e.Code != c.code || e.Message != c.want || errdef.CodeOf(c.err) != c.code {
			t.Errorf("%s: %v %q, want %v %q", c.name, e.Code, e.Message, c.code, c.want)
		}
		if !errors.Is(e, c.err) {
			t.Errorf("%s: As lost the original", c.name)
		}
	}
	if errdef.As(nil) != nil || errdef.CodeOf(nil) != errdef.OK {
		t.Error("nil is not OK")
	}
}

func TestCopiesDoNotShare(t *testing.T) {
	t.Parallel()
	a := errBranch.WithDetail("name", "dev").WithNext("tarn branch ls")
	b := a.WithDetail("name", "prod").WithNext("tarn status")
	if diff := cmp.Diff(map[string]any{"name": "dev"}, a.Details); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"tarn branch ls", "tarn status"}, b.Next); diff != "" {
		t.Error(diff)
	}
	if len(a.Next) != 1 || errBranch.Details != nil || errBranch.Next != nil {
		t.Error("a copy wrote into what it was copied from")
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	err := errBranch.Errorf("no branch %q", "dev").WithDetail("near", []any{"deb"}).WithNext("tarn branch ls")
	b, e := json.Marshal(err)
	if e != nil {
		t.Fatal(e)
	}
	const want = `{"code":"not_found","reason":"lake.branch_not_found","message":"no branch \"dev\"",` +
		`"details":{"near":["deb"]},"next":["tarn branch ls"]}`
	if string(b) != want {
		t.Errorf("got %s\nwant %s", b, want)
	}
	var back *errdef.Error
	if e := json.Unmarshal(b, &back); e != nil {
		t.Fatal(e)
	}
	if !errors.Is(back, errBranch) || back.Code != errdef.NotFound {
		t.Error("the error that came back is not the sentinel")
	}
	if diff := cmp.Diff(err.Details, back.Details); diff != "" {
		t.Error(diff)
	}
}

func TestJSONHostile(t *testing.T) {
	t.Parallel()
	b, err := json.Marshal(errBranch.WithDetail("ratio", math.NaN()).WithDetail("n", 1))
	if err != nil || !strings.Contains(string(b), `"ratio":"NaN"`) || !strings.Contains(string(b), `"n":1`) {
		t.Errorf("%s, %v", b, err)
	}
	var e errdef.Error
	if err := json.Unmarshal([]byte(`{"code":"invented_later","reason":"a.b","message":"m"}`), &e); err != nil || e.Code != errdef.Internal {
		t.Errorf("unknown code: %v, %v", e.Code, err)
	}
	if err := json.Unmarshal([]byte(`{"code":7}`), &e); err == nil {
		t.Error("a number was accepted as code")
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, r := range errdef.Table {
		if errdef.ParseCode(r.Name) != r.Code || r.Code.String() != r.Name {
			t.Errorf("%s does not round trip", r.Name)
		}
		if seen[r.Name] || seen[r.Python] {
			t.Errorf("%s is there twice", r.Name)
		}
		seen[r.Name], seen[r.Python] = true, true
		if r.Exit == 0 || r.Exit == 2 || r.Exit == 3 || r.HTTP < 400 || r.Text == "" {
			t.Errorf("%s: %+v (2 is the exit code of a Go panic, 3 is partial success)", r.Name, r)
		}
	}
	if len(errdef.Table) != int(errdef.Canceled) {
		t.Errorf("%d rows for %d codes", len(errdef.Table), errdef.Canceled)
	}
	if errdef.Code(200).Row().Code != errdef.Internal {
		t.Error("a code outside the table is not internal")
	}
	if !errdef.IsCorrupt(fmt.Errorf("x: %w", errdef.New(errdef.DataLoss, "a", "b"))) || errdef.IsCorrupt(io.EOF) {
		t.Error("IsCorrupt")
	}
}
