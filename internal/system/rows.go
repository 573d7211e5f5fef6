package system

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
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

// openRows opens the rows of a home: in the Postgres database at a URL, or for "" where they were before, at
// first in the home. The home remembers the database, so that no command that lacks its URL starts with an
// empty history.
func openRows(ctx context.Context, h home.Home, at string) (meta.Store, error) {
	b, err := os.ReadFile(h.Rows())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errdef.Newf(errdef.FailedPrecondition, "system.rows", "read where the rows are: %w", err)
	}
	identity, known, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	at = cmp.Or(at, known)
	if at == "" {
		rows, err := sqlitemeta.Open(h.Meta())
		if err != nil {
			return nil, err // not rows, which would be a store that is nil
		}
		return rows, nil
	}
	if _, err := os.Stat(h.Meta()); err == nil {
		return nil, ErrOtherRows.Errorf("the rows of %s are in %s, and stay there", h.Dir, h.Meta()).WithNext("export TARN_HOME=/a/new/folder")
	}
	rows, err := pgmeta.Open(ctx, at)
	if err != nil {
		return nil, err
	}
	found := fmt.Sprintf("%016x", rows.Identity())
	if identity != "" && identity != found {
		err = ErrOtherRows.Errorf("%s belongs to the database %s with identity %s, this one has %s", h.Dir, known, identity, found).
			WithNext("give the address of the database that this home was started with", "export TARN_HOME=/a/new/folder")
	} else if now := withoutPassword(at); identity == "" || now != known {
		err = h.RememberRows(found, now)
	}
	if err != nil {
		return nil, errors.Join(err, rows.Close())
	}
	return rows, nil
}

// withoutPassword is a URL as it may be kept: whoever needs the password has it in ~/.pgpass, say.
func withoutPassword(at string) string {
	u, err := url.Parse(at)
	if err != nil {
		return "" // the store has parsed it
	}
	if u.User != nil {
		u.User = url.User(u.User.Username())
	}
	query := u.Query()
	query.Del("password")
	u.RawQuery = query.Encode()
	return u.String()
}
