package lake

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/blob/memblob"
	"tarn.dev/tarn/internal/meta"
)

// goldenFrame is 200 times "a" as a zstd frame made by hand (one RLE block): what our encoder makes of
// them may change with its version, what a reader makes of a frame may not.
var goldenFrame = []byte{0x28, 0xb5, 0x2f, 0xfd, 0x20, 200, 0x43, 0x06, 0x00, 'a'}

func goldenPack() *pack {
	p := newPack(nil)
	for t := TypeChunk; t < typeEnd; t++ {
		data := []byte("a " + t.String())
		p.add(HashOf(t, data), t, data, codecRaw, len(data))
	}
	as := bytes.Repeat([]byte("a"), 200)
	p.add(HashOf(TypeChunk, as), TypeChunk, goldenFrame, codecZstd, len(as))
	p.finish([packNonce]byte{0: 1, 15: 0xff})
	return p
}

func goldenSegment(t *testing.T) []byte {
	t.Helper()
	p := goldenPack()
	var locations []location
	for _, pl := range p.places {
		locations = append(locations, location{p.name, pl})
	}
	var out bytes.Buffer
	if _, _, err := writeSegment(&out, []Hash{p.name}, int64(len(locations)), yieldAll(locations)); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestGolden compares what is written with testdata/formats.golden. A difference is a new format version
// or a bug, never a reason to edit the file alone.
func TestGolden(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	line := func(name string, value []byte) {
		fmt.Fprintf(&out, "%s\n", name)
		for len(value) > 0 {
			n := min(32, len(value))
			fmt.Fprintf(&out, "  %x\n", value[:n])
			value = value[n:]
		}
	}
	for typ := TypeChunk; typ < typeEnd; typ++ {
		empty, abc := HashOf(typ, nil), HashOf(typ, []byte("abc"))
		line("hash "+typ.String()+" empty", empty[:])
		line("hash "+typ.String()+" abc", abc[:])
	}
	fmt.Fprintf(&out, "gear 0, 1, 255\n  %016x %016x %016x\n", gear[0], gear[1], gear[255])
	var cuts []string
	cut, buffer := chunker{r: bytes.NewReader(randomBytes(42, 8<<20))}, make([]byte, maxChunk)
	for {
		n, err := cut.next(buffer)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		cuts = append(cuts, fmt.Sprint(n))
	}
	fmt.Fprintf(&out, "chunks of 8 MiB of Go's math/rand/v2 ChaCha8, seed 42 and 31 zero bytes\n  %s\n", strings.Join(cuts, " "))
	line("file node", encodeFileNode(1, []fileChild{{HashOf(TypeChunk, []byte("x")), 1 << 20}, {HashOf(TypeChunk, []byte("y")), 3}}))
	p := goldenPack()
	line("pack name", p.name[:])
	line("pack", p.data)
	line("segment", goldenSegment(t))

	want, err := os.ReadFile("testdata/formats.golden")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out.String()); diff != "" {
		t.Errorf("formats changed (-want +got):\n%s", diff)
		t.Logf("in full:\n%s", out.String())
	}
}

// TestGoldenRead reads the recorded pack and segment, not those that the code writes now.
func TestGoldenRead(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/formats.golden")
	if err != nil {
		t.Fatal(err)
	}
	section := func(name string) []byte {
		_, rest, _ := strings.Cut(string(text), "\n"+name+"\n")
		var digits string
		for l := range strings.Lines(rest) {
			if !strings.HasPrefix(l, "  ") {
				break
			}
			digits += strings.TrimSpace(l)
		}
		data, err := hex.DecodeString(digits)
		if err != nil || len(data) == 0 {
			t.Fatalf("no section %q: %v", name, err)
		}
		return data
	}
	store := newTestStore(t)
	store.blobs = memblob.New()
	name, data, index := Hash(section("pack name")), section("pack"), section("segment")
	for blobName, content := range map[string][]byte{packBlob(name): data, segmentBlob("golden"): index} {
		if err := store.blobs.Put(t.Context(), blobName, bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
	}
	for _, withSegment := range []bool{false, true} {
		rows := []meta.Write{meta.Set("p/test/lake/packs/p/"+name.String(), fmt.Appendf(nil, `{"state":"live","size":%d,"objects":7,"epoch":0}`, len(data)))}
		if withSegment {
			rows = append(rows, meta.Set("p/test/lake/packs/s/golden", fmt.Appendf(nil, `{"size":%d,"objects":7,"packs":1}`, len(index))))
		}
		if _, err := store.rows.Txn(t.Context(), nil, rows); err != nil {
			t.Fatal(err)
		}
		l := store.open(t, Options{})
		for typ := TypeChunk; typ < typeEnd; typ++ {
			content := []byte("a " + typ.String())
			wantObject(t, l, typ, HashOf(typ, content), content)
		}
		as := bytes.Repeat([]byte("a"), 200)
		wantObject(t, l, TypeChunk, HashOf(TypeChunk, as), as)
		if p := verify(t, l, true); len(p) > 0 {
			t.Error(p)
		}
	}
}
