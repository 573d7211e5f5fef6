package sqlitemeta_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/metatest"
	"tarn.dev/tarn/internal/meta/sqlitemeta"
)

func TestPathsWithOddCharacters(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a b?x=1#y%20ä&_pragma=z")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(t, filepath.Join(dir, "meta.db"))
	put(t, s, "a", "x")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("a closed store leaves one file, not its log: %v %v", entries, err)
	}
	info, err := os.Stat(filepath.Join(dir, "meta.db"))
	if err != nil || info.Size() == 0 || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	alien := filepath.Join(dir, "alien.db")
	execute(t, alien, `CREATE TABLE t (x)`)
	newer := filepath.Join(dir, "newer.db")
	if err := open(t, newer).Close(); err != nil {
		t.Fatal(err)
	}
	execute(t, newer, `PRAGMA user_version = 99`)
	for path, want := range map[string]error{
		write("garbage", bytes.Repeat([]byte("garbage!"), 4096)): sqlitemeta.ErrCorrupt,
		alien: sqlitemeta.ErrCorrupt,
		newer: sqlitemeta.ErrNewerFormat,
	} {
		_, err := sqlitemeta.Open(path)
		if !errors.Is(err, want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
	if _, err := sqlitemeta.Open(filepath.Join(dir, "none", "meta.db")); err == nil {
		t.Error("opened in a folder that does not exist")
	}
	if _, err := sqlitemeta.Open(dir); err == nil {
		t.Error("opened a folder")
	}
}

// A damaged page is DataLoss for whoever reads it, and Check finds it.
func TestDamageIsFound(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "meta.db")
	s := open(t, path)
	for i := range 50 {
		var writes []meta.Write
		for j := range 50 {
			writes = append(writes, meta.Set(fmt.Sprintf("k/%02d/%02d", i, j), bytes.Repeat([]byte{byte(i)}, 100)))
		}
		txn(t, s, nil, writes...)
	}
	if found := check(t, s); len(found) > 0 {
		t.Errorf("sound database: %v", found)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for page := 10; page < len(data)/4096; page += 3 {
		copy(data[page*4096:], bytes.Repeat([]byte{0x5a}, 200))
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	if len(check(t, s)) == 0 {
		t.Error("check found nothing")
	}
	var last error
	for _, err := range s.Scan(t.Context(), meta.Range{}) {
		last = err
	}
	if !errors.Is(last, sqlitemeta.ErrCorrupt) {
		t.Errorf("scan of a damaged database: %v", last)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// check returns what the store finds damaged in itself.
func check(t *testing.T, s meta.Store) (found []meta.Damage) {
	t.Helper()
	for d, err := range s.Check(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if !errdef.IsCorrupt(d.Err) {
			t.Errorf("check: %v", d.Err)
		}
		found = append(found, d)
	}
	return found
}

// TestDamagedRow changes each byte of a row, one at a time: whoever reads it is told, nothing else is in the
// way, Check names it, and what was written can be told from what is left.
func TestDamagedRow(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "meta.db")
	s := open(t, path)
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	metatest.DamagedRow(t, s, func(set string) { execute(t, path, "UPDATE row SET "+set) }, "x'%x'")
}

// TestVersion1: the rows of an older Tarn are taken over, with their numbers.
func TestVersion1(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "meta.db")
	execute(t, path, `
		CREATE TABLE row (key BLOB PRIMARY KEY NOT NULL, value BLOB NOT NULL, version INTEGER NOT NULL) WITHOUT ROWID;
		CREATE INDEX row_version ON row(version);
		CREATE TABLE gone (key BLOB PRIMARY KEY NOT NULL, version INTEGER NOT NULL) WITHOUT ROWID;
		CREATE INDEX gone_version ON gone(version);
		CREATE TABLE state (name TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL) WITHOUT ROWID;
		INSERT INTO state VALUES ('txn', 7), ('horizon', 0);
		INSERT INTO row VALUES (CAST('a' AS BLOB), CAST('one' AS BLOB), 3), (CAST('b' AS BLOB), x'', 7);
		PRAGMA application_id = 0x5461726e;
		PRAGMA user_version = 1;`)
	s := open(t, path)
	if r, err := s.Get(t.Context(), "a"); err != nil || string(r.Value) != "one" || r.Version != 3 {
		t.Error(r, err)
	}
	if found := check(t, s); len(found) > 0 {
		t.Error(found)
	}
	if n := txn(t, s, []meta.Condition{meta.At("b", 7)}, meta.Set("b", []byte("x"))); n != 8 {
		t.Errorf("number %d", n)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// A number that the database has forgotten is not given again.
func TestNoNumberTwice(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "meta.db")
	s := open(t, path)
	put(t, s, "a", "x")
	put(t, s, "b", "x")
	txn(t, s, nil, meta.Delete("b"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	execute(t, path, `UPDATE state SET value = 1 WHERE name = 'txn'`)
	s = open(t, path)
	if n := txn(t, s, nil, meta.Set("c", nil)); n != 4 {
		t.Errorf("number %d", n)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// Check also knows the rules that SQLite does not.
func TestCheckRules(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]string{
		"never given":  `UPDATE row SET version = 1000`,
		"never given ": `UPDATE gone SET version = 0`,
		"yet are":      `INSERT INTO gone SELECT key, version FROM row`,
		"not bytes":    `UPDATE row SET value = 'text'`,
	} {
		path := filepath.Join(t.TempDir(), "meta.db")
		s := open(t, path)
		txn(t, s, nil, meta.Set("a", nil), meta.Set("b", nil))
		txn(t, s, nil, meta.Delete("b"))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		execute(t, path, damage)
		s = open(t, path)
		found := check(t, s)
		if len(found) == 0 || found[0].Key != "" || !strings.Contains(found[0].Err.Error(), strings.TrimSpace(name)) {
			t.Errorf("%s: %v", name, found)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A full disk fails the transaction, says so, harms nothing, and is over when space is back.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mount("tarn-test", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("cannot mount a small file system here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, filepath.Join(dir, "meta.db"))
	var err error
	n := 0
	for ; err == nil && n < 1000; n++ {
		_, err = s.Txn(t.Context(), nil, []meta.Write{meta.Set(fmt.Sprintf("k/%03d", n), make([]byte, 10_000))})
	}
	if !errors.Is(err, sqlitemeta.ErrDiskFull) || errdef.CodeOf(err) != errdef.ResourceExhausted || len(errdef.As(err).Next) == 0 {
		t.Fatalf("after %d: %v", n, err)
	}
	rows := 0
	for _, err := range s.Scan(t.Context(), meta.Prefix("k/")) {
		if err != nil {
			t.Fatal(err)
		}
		rows++
	}
	if rows != n-1 {
		t.Errorf("%d rows after %d successes", rows, n-1)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	put(t, s, "again", "x")
	if found := check(t, s); len(found) > 0 {
		t.Error(found)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// Transactions of one batch fail by themselves, and canceled ones either happened or did not.
func TestCancelMeansNotApplied(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "meta.db"))
	var wg sync.WaitGroup
	var applied atomic.Int64
	for w := range 20 {
		wg.Go(func() {
			for i := range 20 {
				ctx, cancel := context.WithCancelCause(t.Context())
				go cancel(errors.New("enough"))
				key := fmt.Sprintf("%d/%d", w, i)
				_, err := s.Txn(ctx, nil, []meta.Write{meta.Set(key, nil)})
				_, gerr := s.Get(t.Context(), key)
				if (err == nil) != (gerr == nil) {
					t.Errorf("txn: %v, get: %v", err, gerr)
				}
				if err == nil {
					applied.Add(1)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d of 400 were applied", applied.Load())
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func execute(t *testing.T, path, text string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec(text)
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

func txn(t *testing.T, s meta.Store, conditions []meta.Condition, writes ...meta.Write) int64 {
	t.Helper()
	v, err := s.Txn(t.Context(), conditions, writes)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func put(t *testing.T, s meta.Store, key, value string) { txn(t, s, nil, meta.Set(key, []byte(value))) }
