package cli

import (
	"bytes"
	"encoding/base64"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/rogpeppe/go-internal/testscript"
)

// holds DIR TEXT: a file below DIR has the text, as it is or in anything that is compressed there: objects of packs, pages
// of Parquet.
func holds(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: holds DIR TEXT")
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	ts.Check(err)
	defer decoder.Close()
	found := ""
	err = filepath.WalkDir(ts.MkAbs(args[0]), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err == nil && has(data, spellings(args[1]), decoder) {
			found = path
			ts.Logf("%s holds %s", path, args[1])
		}
		return err
	})
	ts.Check(err)
	if (found == "") != neg {
		ts.Fatalf("holds %s %s: %q", args[0], args[1], found)
	}
}

var zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// spellings are the text, and what of it is sure to be in base64, wherever it begins there: so rows have bytes.
func spellings(text string) [][]byte {
	out := [][]byte{[]byte(text)}
	for shift := range 3 {
		b := base64.StdEncoding.EncodeToString([]byte("xx"[:shift] + text))
		out = append(out, []byte(b[(shift*4+2)/3:(shift+len(text))/3*4]))
	}
	return out
}

func has(data []byte, texts [][]byte, decoder *zstd.Decoder) bool {
	in := func(data []byte) bool {
		return slices.ContainsFunc(texts, func(text []byte) bool { return bytes.Contains(data, text) })
	}
	if in(data) {
		return true
	}
	for {
		i := bytes.Index(data, zstdMagic)
		if i < 0 {
			return false
		}
		data = data[i:]
		// What follows the frame is no frame: the error comes after the content.
		if plain, _ := decoder.DecodeAll(data, nil); in(plain) {
			return true
		}
		data = data[len(zstdMagic):]
	}
}
