package system

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/pgmeta"
	"tarn.dev/tarn/internal/meta/sqlitemeta"
	"tarn.dev/tarn/internal/system/home"
)

// ErrOtherRows is returned for a home that is opened with other rows than before: its bulk data belongs
// to those.
var ErrOtherRows = errdef.New(errdef.FailedPrecondition, "system.other_rows", "the home belongs to other rows")

// openRows opens the rows of a home: in a Postgres database, or for "" in the home itself. The home
// remembers the database, so that no command that lacks its address starts with an empty history.
func openRows(ctx context.Context, h home.Home, url string) (meta.Store, error) {
	b, err := os.ReadFile(h.Rows())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errdef.Newf(errdef.FailedPrecondition, "system.rows", "read where the rows are: %w", err)
	}
	known := strings.TrimSpace(string(b))
	if url == "" {
		if known != "" {
			return nil, ErrOtherRows.Errorf("the rows of %s are in Postgres (%s)", h.Dir, known).
				WithNext("export TARN_META=postgres://...", "tarn server start --meta postgres://...")
		}
		rows, err := sqlitemeta.Open(h.Meta())
		if err != nil {
			return nil, err // not rows, which would be a store that is nil
		}
		return rows, nil
	}
	if _, err := os.Stat(h.Meta()); err == nil {
		return nil, ErrOtherRows.Errorf("the rows of %s are in %s, and stay there", h.Dir, h.Meta()).WithNext("export TARN_HOME=/a/new/folder")
	}
	rows, err := pgmeta.Open(ctx, url)
	if err != nil {
		return nil, err
	}
	if err := remember(h, known, fmt.Sprintf("%016x", rows.Identity())); err != nil {
		return nil, errors.Join(err, rows.Close())
	}
	return rows, nil
}

// remember notes which database a home belongs to, or refuses another one.
func remember(h home.Home, known, identity string) error {
	switch known {
	case identity:
		return nil
	case "":
	default:
		return ErrOtherRows.Errorf("%s belongs to the database with identity %s, this one has %s", h.Dir, known, identity).
			WithNext("give the address of the database that this home was started with", "export TARN_HOME=/a/new/folder")
	}
	if err := os.WriteFile(h.Rows(), []byte(identity+"\n"), 0o600); err != nil {
		return errdef.Newf(errdef.FailedPrecondition, "system.rows", "note where the rows are: %w", err)
	}
	return nil
}
