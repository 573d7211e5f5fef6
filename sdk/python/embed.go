// Package sdk carries the Python half of Tarn inside the binary: the decorators, discovery and the
// runner that a sandbox puts on its path, so that a run needs nothing installed.
package sdk

import (
	"embed"
	"encoding/hex"
	"io/fs"
	"sync"

	"github.com/zeebo/blake3"
)

// Each pattern names files, because embedding a folder would leave out those that start with "_" and
// take in __pycache__.
//
//go:embed src/tarn/*.py src/tarn/py.typed
var files embed.FS

// FS is the content of the folder `tarn`: what must lie in a folder of that name on PYTHONPATH.
func FS() fs.FS {
	sub, err := fs.Sub(files, "src/tarn")
	if err != nil {
		panic(err) // the pattern above names this folder
	}
	return sub
}

// Hash identifies the content of FS, in lower hex. Two binaries with the same hash share a copy in the
// host cache.
var Hash = sync.OnceValue(func() string {
	h := blake3.New()
	err := fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := files.ReadFile(path)
		if err != nil {
			return err
		}
		sum := blake3.Sum256(data)
		_, err = h.Write(append([]byte(path+"\x00"), sum[:]...))
		return err
	})
	if err != nil {
		panic(err) // reading what is part of the binary
	}
	return hex.EncodeToString(h.Sum(nil))
})
