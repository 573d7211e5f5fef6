// Package secret keeps the secrets of projects: texts that functions need and that nobody reads back.
//
// A Vault is what a home has: one key, in a file, and a row for each secret with its name in the clear and
// its value encrypted to the key (docs/formats/secret.md). A Store is the part of one project. Values come
// out of it in memory only, for whoever starts a function that declares them. A Redactor knows the forms in
// which values turn up in what functions say, and hides them.
package secret

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/near"
	"tarn.dev/tarn/internal/base/pattern"
	"tarn.dev/tarn/internal/meta"
)

// Errors of secrets. None names a value.
var (
	ErrName     = errdef.New(errdef.InvalidArgument, "secret.name", "not the name of a secret")
	ErrValue    = errdef.New(errdef.InvalidArgument, "secret.value", "not a value of a secret")
	ErrNotFound = errdef.New(errdef.NotFound, "secret.not_found", "no such secret")
	errCorrupt  = errdef.New(errdef.DataLoss, "secret.corrupt", "a secret is damaged")
)

// maxValue is half of what Linux takes as one variable: the name has room beside it.
const maxValue = 64 << 10

// Info is what can be told of a secret.
type Info struct {
	Name string    `json:"name"`
	Set  time.Time `json:"set"`
}

// Vault holds the secrets of a home.
type Vault struct {
	rows meta.Store
	key  keyFile

	making sync.Mutex // one key is made
}

// Open returns the vault whose key is, or is going to be, in the file keyPath.
func Open(rows meta.Store, keyPath string) *Vault {
	return &Vault{rows: rows, key: keyFile(keyPath)}
}

// KeyPath is the file with the key.
func (v *Vault) KeyPath() string { return string(v.key) }

// Prefixes begin the rows of a project.
func Prefixes(project string) []string {
	return []string{rowPrefix + meta.Key(project) + "/", requestPrefix + meta.Key(project) + "/"}
}

// Project is the part of one project.
func (v *Vault) Project(name string) *Store {
	return &Store{vault: v, prefix: rowPrefix + meta.Key(name) + "/", requests: requestPrefix + meta.Key(name) + "/"}
}

// Prefixes of rows. They are not below a project's own: a key is made only where the whole home has no secret.
const (
	rowPrefix     = "secret/"
	requestPrefix = "secret-request/"
)

// Check opens every secret of the home and returns how many there are.
func (v *Vault) Check(ctx context.Context) (int, error) {
	n := 0
	for row, err := range v.rows.Scan(ctx, meta.Prefix(rowPrefix)) {
		if err != nil {
			return n, fmt.Errorf("read secrets: %w", err)
		}
		n++
		if _, err := v.open(row); err != nil {
			return n, err
		}
	}
	return n, nil
}

// Store holds the secrets of one project. Safe for concurrent use.
type Store struct {
	vault            *Vault
	prefix, requests string
}

// sealed is the value of a row.
type sealed struct {
	Set time.Time `json:"set"`
	Age []byte    `json:"age"`
}

var namePattern = pattern.Of(`^[A-Za-z_][A-Za-z0-9_]{0,199}$`)

// taken are variables that every function has, or that decide how its program starts.
var taken = pattern.Of(`^(TARN_.*|PYTHON.*|LD_.*|PATH|HOME|TMPDIR|TZ|LC_ALL|(OMP|OPENBLAS|MKL)_NUM_THREADS)$`)

// CheckName refuses what cannot be the variable of a secret.
func CheckName(name string) error {
	switch {
	case !namePattern().MatchString(name):
		return ErrName.Errorf("%.80q cannot name a secret: it is the name of a variable, such as OPENAI_API_KEY, of at most 200 letters, digits and _", name)
	case taken().MatchString(name):
		return ErrName.Errorf("%s cannot name a secret: Tarn sets that variable itself", name)
	}
	return nil
}

func checkValue(name, value string) error {
	switch {
	case value == "":
		return ErrValue.Errorf("the value of %s is empty", name)
	case len(value) > maxValue:
		return ErrValue.Errorf("the value of %s has %d bytes; at most %d fit into a variable", name, len(value), maxValue)
	case strings.ContainsRune(value, 0) || !utf8.ValidString(value):
		return ErrValue.Errorf("the value of %s is no text: a variable holds UTF-8 without zero bytes. Encode it, with base64 say", name)
	}
	return nil
}

// Set makes or replaces secrets, all or none; with a request id, once.
func (s *Store) Set(ctx context.Context, request string, values map[string]string) ([]Info, error) {
	names := slices.Sorted(maps.Keys(values))
	if len(names) == 0 {
		return nil, ErrName.Errorf("no secret is named")
	}
	for _, name := range names {
		if err := errors.Join(CheckName(name), checkValue(name, values[name])); err != nil {
			return nil, err
		}
	}
	return s.once(ctx, "set/"+meta.Key(request), func() (out []Info, conds []meta.Condition, writes []meta.Write, err error) {
		key, err := s.vault.writeKey(ctx)
		if err != nil {
			return nil, nil, nil, err
		}
		for _, name := range names {
			row := sealed{Set: time.Now().UTC().Truncate(time.Second)}
			if row.Age, err = key.encrypt(values[name]); err != nil {
				return nil, nil, nil, fmt.Errorf("encrypt %s: %w", name, err)
			}
			b, err := json.Marshal(row)
			if err != nil {
				return nil, nil, nil, fmt.Errorf("encode %s: %w", name, err)
			}
			out, writes = append(out, Info{Name: name, Set: row.Set}), append(writes, meta.Set(s.prefix+name, b))
		}
		return out, nil, writes, nil
	})
}

// Remove takes secrets away, all or none, and returns what they were; with a request id, once.
func (s *Store) Remove(ctx context.Context, request string, names []string) ([]Info, error) {
	return s.once(ctx, "remove/"+meta.Key(request), func() (out []Info, conds []meta.Condition, writes []meta.Write, err error) {
		have, err := s.List(ctx)
		if err != nil {
			return nil, nil, nil, err
		}
		for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
			i := slices.IndexFunc(have, func(x Info) bool { return x.Name == name })
			if i < 0 {
				return nil, nil, nil, notFound(name, have)
			}
			out = append(out, have[i])
			conds, writes = append(conds, meta.Exists(s.prefix+name)), append(writes, meta.Delete(s.prefix+name))
		}
		return out, conds, writes, nil
	})
}

// once makes a change and keeps its answer under the request's id, which may be sent again.
func (s *Store) once(ctx context.Context, request string, change func() ([]Info, []meta.Condition, []meta.Write, error)) ([]Info, error) {
	key := s.requests + request
	for {
		if out, done, err := s.answered(ctx, key); done || err != nil {
			return out, err
		}
		out, conds, writes, err := change()
		if err != nil {
			return nil, err
		}
		if !strings.HasSuffix(key, "/") {
			answer, err := json.Marshal(out)
			if err != nil {
				return nil, fmt.Errorf("encode answer: %w", err)
			}
			conds, writes = append(conds, meta.Absent(key)), append(writes, meta.Set(key, answer))
		}
		_, err = s.vault.rows.Txn(ctx, conds, writes)
		if err == nil {
			return out, nil
		}
		if !errors.Is(err, meta.ErrConditionFailed) { // else somebody was faster: look again
			return nil, fmt.Errorf("write secrets: %w", err)
		}
	}
}

// answered is what a request has come to that was made before.
func (s *Store) answered(ctx context.Context, key string) (out []Info, done bool, err error) {
	row, err := s.vault.rows.Get(ctx, key)
	if errors.Is(err, meta.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("look for the request: %w", err)
	}
	if err := json.Unmarshal(row.Value, &out); err != nil {
		return nil, false, errCorrupt.Errorf("row %s: %w", key, err)
	}
	return out, true, nil
}

// List tells the secrets in order of name.
func (s *Store) List(ctx context.Context) ([]Info, error) {
	out := []Info{}
	for row, err := range s.vault.rows.Scan(ctx, meta.Prefix(s.prefix)) {
		if err != nil {
			return nil, fmt.Errorf("list secrets: %w", err)
		}
		x, err := decode(row)
		if err != nil {
			return nil, err
		}
		out = append(out, Info{Name: nameOf(row.Key), Set: x.Set})
	}
	return out, nil
}

// Values opens the named secrets. A name that is not set is an error that says so.
func (s *Store) Values(ctx context.Context, names []string) (map[string]string, error) {
	out := map[string]string{}
	for _, name := range names {
		row, err := s.vault.rows.Get(ctx, s.prefix+name)
		if errors.Is(err, meta.ErrNotFound) {
			have, err := s.List(ctx)
			if err != nil {
				return nil, err
			}
			return nil, notFound(name, have).WithNext("tarn secret set " + name)
		}
		if err == nil {
			out[name], err = s.vault.open(row)
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func notFound(name string, have []Info) *errdef.Error {
	names := make([]string, len(have))
	for i, x := range have {
		names[i] = x.Name
	}
	hint := "No secret is set"
	if len(names) > 0 {
		hint = "Secrets: " + strings.Join(names, ", ")
	}
	if meant := near.Nearest(name, names); meant != "" {
		hint = "Did you mean " + meant + "? " + hint
	}
	return ErrNotFound.Errorf("the secret %s is not set. %s.", name, hint)
}

func nameOf(key string) string { return key[strings.LastIndexByte(key, '/')+1:] }

func decode(row meta.Row) (sealed, error) {
	var x sealed
	if err := json.Unmarshal(row.Value, &x); err != nil {
		return x, errCorrupt.Errorf("row %s: %w", row.Key, err)
	}
	return x, nil
}

func (v *Vault) open(row meta.Row) (string, error) {
	x, err := decode(row)
	if err != nil {
		return "", err
	}
	key, err := v.key.read()
	if err != nil {
		return "", err
	}
	value, err := key.decrypt(x.Age)
	if err != nil {
		return "", v.key.unopened(nameOf(row.Key), err)
	}
	return value, nil
}
