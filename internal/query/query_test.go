package query

import (
	"errors"
	"testing"

	"tarn.dev/tarn/internal/base/errdef"
)

func TestFailure(t *testing.T) {
	t.Parallel()
	sent := ErrParam.Errorf("parameter $%s has no value", "top").WithNext("--param top=VALUE").WithDetail("line", 3)
	got := errdef.As(NewFailure(sent).Err())
	if !errors.Is(got, ErrParam) || got.Code != sent.Code || got.Message != sent.Message || got.Next[0] != sent.Next[0] || got.Details["line"] != 3 {
		t.Errorf("got %#v", got)
	}
}

func TestName(t *testing.T) {
	t.Parallel()
	for want, name := range map[string]Name{
		"orders":           {Table: "orders"},
		"orders@dev":       {Namespace: "default", Table: "orders", Ref: "dev"},
		"sales.orders@dev": {Namespace: "sales", Table: "orders", Ref: "dev"},
	} {
		if got := name.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
