package secret

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/meta"
)

var (
	errNoKey = errdef.New(errdef.FailedPrecondition, "secret.no_key", "the key of the secrets is missing")
	errKey   = errdef.New(errdef.FailedPrecondition, "secret.key", "the key of the secrets cannot be used")
)

// keyFile is the path of the file with the home's key: one line, as age writes identities.
type keyFile string

// key encrypts and decrypts values.
type key struct{ *age.X25519Identity }

// read reads the key; errNoKey when there is none.
func (f keyFile) read() (key, error) {
	path := string(f)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return key{}, errNoKey.Errorf("%s is missing, the key of this home's secrets. Put it back, from a backup say. "+
			"If it is lost, so are their values: remove each secret and set it again", path).WithNext("tarn secret ls", "tarn secret rm NAME")
	}
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		return key{}, errKey.Errorf("%s, the key of this home's secrets, can be read by other users (mode %04o)", path, info.Mode().Perm()).
			WithNext("chmod 600 " + path)
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return key{}, errKey.Errorf("read the key of this home's secrets: %w", err)
	}
	id, err := age.ParseX25519Identity(strings.TrimSpace(string(text)))
	if err != nil { // its text is not repeated: most of the line may be the key
		return key{}, errKey.Errorf("%s does not hold a key of age (AGE-SECRET-KEY-1...). Put the right one back", path)
	}
	return key{id}, nil
}

// unopened says why a value did not decrypt.
func (f keyFile) unopened(name string, err error) error {
	var other *age.NoIdentityMatchError
	if errors.As(err, &other) {
		return errKey.Errorf("the secret %s was encrypted with another key than the one in %s. Put that key back, or set the secret again", name, string(f)).
			WithNext("tarn secret set " + name)
	}
	return errCorrupt.Errorf("the secret %s is damaged: %w", name, err).WithNext("tarn secret set " + name)
}

// writeKey is the key for new values. It makes one, but never where secrets are that it could not open.
func (v *Vault) writeKey(ctx context.Context) (key, error) {
	v.making.Lock()
	defer v.making.Unlock()
	k, err := v.key.read()
	if !errors.Is(err, errNoKey) {
		return k, err
	}
	for _, scanned := range v.rows.Scan(ctx, meta.Range{Start: rowPrefix, End: meta.Prefix(rowPrefix).End, Limit: 1}) {
		if scanned != nil {
			return key{}, fmt.Errorf("look for secrets: %w", scanned)
		}
		return key{}, err
	}
	return v.key.make()
}

// make writes a new key, durable before anything is encrypted to it.
func (f keyFile) make() (key, error) {
	fail := func(err error) (key, error) {
		return key{}, errKey.Errorf("make the key of this home's secrets: %w", err)
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return fail(err)
	}
	path := string(f)
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*") // 0600
	if err != nil {
		return fail(err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(id.String() + "\n")
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return fail(err)
	}
	if err := os.Link(tmp.Name(), path); err != nil { // replaces nothing
		return fail(err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fail(err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fail(err)
	}
	return key{id}, nil
}

func (k key) encrypt(value string) ([]byte, error) {
	var out bytes.Buffer
	w, err := age.Encrypt(&out, k.Recipient())
	if err != nil {
		return nil, err
	}
	_, err = io.WriteString(w, value)
	err = errors.Join(err, w.Close())
	return out.Bytes(), err
}

func (k key) decrypt(box []byte) (string, error) {
	r, err := age.Decrypt(bytes.NewReader(box), k.X25519Identity)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(r)
	return string(b), err
}
