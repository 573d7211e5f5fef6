// Package memo is the one relation behind skipping, incremental runs, staleness, replay and provenance:
// key -> fragment. A key names everything that may change a result; a Fragment is a result; a
// Provenance record says how it came about. Formats: docs/formats/memo.md.
package memo

import (
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"github.com/zeebo/blake3"
)

const keyContext = "tarn 2026 memo key v1"

// Key identifies one invocation by everything that may change its result; 64 hex digits.
type Key string

// Components are the parts of a key. Their JSON form is kept in provenance, so that two keys can be
// compared part by part.
type Components struct {
	Language  string      `json:"language"`
	Semantics int         `json:"semantics"`
	Code      []CodePart  `json:"code"`
	Entry     string      `json:"entry,omitempty"`
	Files     []NameValue `json:"files,omitempty"`
	Lock      string      `json:"lock,omitempty"`
	Python    string      `json:"python,omitempty"`
	Platform  string      `json:"platform,omitempty"`
	Params    []NameValue `json:"params,omitempty"`
	Secrets   []string    `json:"secrets,omitempty"`
	Inputs    []InputID   `json:"inputs,omitempty"`
	Item      string      `json:"item,omitempty"`
}

// CodePart is one definition, or a whole module when Name is "*".
type CodePart struct {
	Module string `json:"module"`
	Name   string `json:"name"`
	Hash   string `json:"hash"`
}

// NameValue is a named text: a parameter's canonical JSON, a file's content hash.
type NameValue struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// InputID is the identity of what one parameter got.
type InputID struct {
	Param    string `json:"param"`
	Kind     string `json:"kind"`
	Identity string `json:"identity"`
}

// TableIdentity is the identity of a table: its rows and its schema, nothing else.
func TableIdentity(dataVersion, schema string) string { return dataVersion + " " + schema }

// FileIdentity is the identity of one file. The path counts: user code sees it.
func FileIdentity(path, contentHash string) string { return path + "\x00" + contentHash }

// FilesIdentity is the identity of several files.
func FilesIdentity(ids []string) string {
	ids = slices.Sorted(slices.Values(ids))
	return strings.Join(ids, "\x00")
}

type encoder struct{ buf []byte }

func (e *encoder) str(ss ...string) {
	for _, s := range ss {
		e.buf = binary.AppendUvarint(e.buf, uint64(len(s)))
		e.buf = append(e.buf, s...)
	}
}

func (e *encoder) count(n int) { e.str(strconv.Itoa(n)) }

// Encode is the canonical encoding that Key hashes.
func (c Components) Encode() []byte {
	e := &encoder{}
	e.str(c.Language, strconv.Itoa(c.Semantics))
	code := slices.SortedFunc(slices.Values(c.Code), func(a, b CodePart) int {
		return strings.Compare(a.Module+"\x00"+a.Name, b.Module+"\x00"+b.Name)
	})
	e.count(len(code))
	for _, p := range code {
		e.str(p.Module, p.Name, p.Hash)
	}
	e.str(c.Entry)
	e.named(c.Files)
	e.str(c.Lock, c.Python, c.Platform)
	e.named(c.Params)
	secrets := slices.Sorted(slices.Values(c.Secrets))
	e.count(len(secrets))
	e.str(secrets...)
	e.count(len(c.Inputs))
	for _, in := range c.Inputs {
		e.str(in.Param, in.Kind, in.Identity)
	}
	e.str(c.Item)
	return e.buf
}

func (e *encoder) named(nvs []NameValue) {
	nvs = slices.SortedFunc(slices.Values(nvs), func(a, b NameValue) int { return strings.Compare(a.Name, b.Name) })
	e.count(len(nvs))
	for _, nv := range nvs {
		e.str(nv.Name, nv.Value)
	}
}

// Key is the memo key of the components.
func (c Components) Key() Key {
	var out [32]byte
	blake3.DeriveKey(keyContext, c.Encode(), out[:])
	return Key(hex.EncodeToString(out[:]))
}
