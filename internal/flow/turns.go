package flow

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"tarn.dev/tarn/internal/base/room"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/flow/turn"
	"tarn.dev/tarn/internal/runtime"
)

// Host is the machine that the steps and calls of all projects share. Each claims a part of it while it runs: a core, or as many
// as its function asks for, and the memory and disk that it asks for. One that asks for none has none kept for it.
type Host struct {
	turns  *turn.Turns
	cores  int
	memory int64 // for all that run
	folder string
}

// NewHost returns a machine of which nothing is claimed. What runs writes on the disk of folder.
func NewHost(cores int, memory int64, folder string) *Host {
	return &Host{turns: turn.New(), cores: max(cores, 1), memory: memory, folder: folder}
}

// The things that functions claim of a host.
const (
	ofSteps  = "cores of steps" // calls have their own: one waits for an answer, and steps take minutes
	ofCalls  = "cores of calls"
	ofMemory = "memory"
	ofDisk   = "disk"
)

// wholeCore is divided among what needs less than one.
const wholeCore = 1 << 20

// claims are what the limits of a function ask for; the first are its cores.
func (h *Host) claims(limits runtime.Limits, of string) []turn.Claim {
	share := wholeCore
	if limits.CPUs > 0 {
		share = max(int(limits.CPUs*wholeCore), 1)
	}
	claims := []turn.Claim{{Of: of, Share: share, Limit: wholeCore * h.cores}}
	if limits.MemoryBytes > 0 {
		claims = append(claims, turn.Claim{Of: ofMemory, Share: int(limits.MemoryBytes), Limit: int(h.memory)})
	}
	// Also who asks for no disk writes: when there is no room he waits for what others leave, and goes on when he is alone.
	return append(claims, turn.Claim{Of: ofDisk, Share: int(max(limits.DiskBytes, 1)), Now: h.disk})
}

// disk is how much what runs may write, together. What is written already counts twice, as claimed and as not free any more:
// so it is rather too little.
func (h *Host) disk() int {
	disk, err := room.Of(h.folder)
	if err != nil {
		return math.MaxInt // who writes will be told
	}
	return int(disk.Left())
}

// stepTurn waits for what a step's function claims of the host, and for what it is limited to. It says so when that takes long.
func (f *Flow) stepTurn(ctx context.Context, fn *manifest.Function, say func(message string)) (done func(), err error) {
	limits, err := limitsOf(fn)
	if err != nil {
		return nil, err
	}
	claims := append(f.Host.claims(limits, ofSteps), f.limitClaims(fn)...)
	said := make(chan struct{})
	late := time.AfterFunc(waitSaid, func() {
		defer close(said)
		say(f.Host.waits(fn.Name, claims))
	})
	defer func() {
		if !late.Stop() {
			<-said
		}
	}()
	return f.Host.turns.Take(ctx, turn.Rank{Priority: fn.Options.Priority}, claims...)
}

// waits says what somebody waits for.
func (h *Host) waits(name string, claims []turn.Claim) string {
	var lacks []string
	lacking, used := h.turns.Lacking(claims...)
	for i, c := range lacking {
		limit := int64(c.Limit)
		if c.Now != nil {
			limit = int64(c.Now())
		}
		switch {
		case c.Of == ofDisk && c.Share == 1:
			lacks = append(lacks, "the disk is nearly full, so they go on one by one")
		case c.Of == ofMemory || c.Of == ofDisk:
			lacks = append(lacks, fmt.Sprintf("it asks for %s of %s, and others have %s of %s", bytesText(int64(c.Share)), c.Of, bytesText(int64(used[i])), bytesText(limit)))
		case c.Of == ofSteps || c.Of == ofCalls:
			lacks = append(lacks, "others have the cores")
		default:
			lacks = append(lacks, fmt.Sprintf("others are all that its concurrency of %d allows", limit))
		}
	}
	if len(lacks) == 0 { // it is there, but kept for somebody
		lacks = []string{"others came before"}
	}
	return fmt.Sprintf("%s waits for its turn: %s. tarn runs lists what runs, tarn cancel ends one.", name, strings.Join(lacks, ", "))
}

// limitClaims are what a function's limit asks for: it holds for all runs and calls of a project, and with a key for all functions
// that name it.
func (f *Flow) limitClaims(fn *manifest.Function) []turn.Claim {
	o := fn.Options
	if o.Concurrency == 0 {
		return nil
	}
	of := "function " + fn.File + "::" + cmp.Or(fn.Qualname, fn.Name)
	if o.ConcurrencyKey != "" {
		of = "key " + o.ConcurrencyKey
	}
	return []turn.Claim{{Of: of + " of project " + f.name, Share: 1, Limit: o.Concurrency}}
}
