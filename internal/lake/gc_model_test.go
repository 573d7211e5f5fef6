package lake_test

import (
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// This is a model of docs/design/garbage.md: a store of rows and blobs, two servers, and every party of the
// protocol as a coroutine that gives up its turn between any two transactions or blob operations. After
// each step every root must lead to objects that are there. Each rule of the protocol can be broken; then
// the search must find what goes wrong, which shows that the rule is needed and that the model would
// notice its breach in a new version of the protocol.

// broken names the one rule that a run of the model leaves out; empty for none.
type broken string

const (
	noAssert       broken = "a commit does not assert the packs it relies on" // a second line: see below
	reuseCondemned broken = "a condemned pack satisfies dedup hits"
	noWait         broken = "deletion does not wait for operations"
	noSecondMark   broken = "what is dead is decided before the wait"
	earlySeen      broken = "a server reports an epoch while older operations go on"
	staleIndex     broken = "a server takes an epoch over without reading the rows again"
	noFence        broken = "an expired session is passed over, not removed"
	zombieFlush    broken = "packs and memo rows are written without the session's condition"
	userRemoves    broken = "a replaced memo row is taken away by its writer"
	noTouch        broken = "a commit that is named again is not touched"
	branchesFirst  broken = "the branches are read before the commits"
	commitsFirst   broken = "the commits are read before the branches"
	ancestorsFirst broken = "commits go before their descendants"
	noTicket       broken = "two collectors at once"
	rowFirst       broken = "a rewritten pack's row goes before its successor's comes"
	blobFirst      broken = "a pack's blob goes before its row"
	orphansNow     broken = "a pack without a row is deleted at once"
	oldKnowledge   broken = "what was stored in an earlier epoch is believed to be there"
	cutLater       broken = "that retention ended the history is noted after the commit went"
)

var allBroken = []broken{
	reuseCondemned, noWait, noSecondMark, earlySeen, staleIndex, noFence, zombieFlush, userRemoves, noTouch,
	branchesFirst, commitsFirst, ancestorsFirst, noTicket, rowFirst, blobFirst, orphansNow, oldKnowledge, cutLater,
}

// Rows of the model. Objects are strings: a leaf is a letter, a node is "(" its two children ")".
type (
	modelPack struct {
		condemned bool
		version   int
		objects   []string
	}
	modelCommit struct {
		version    int
		generation int
		root       string
		blob       int // a data file, which no pack holds
		parents    []int
	}
	modelBranch struct{ commit, version int }
)

// model is the world: the rows and blobs that all servers share.
type model struct {
	rule broken
	draw func(n int) int

	txn      int // also the source of all ids
	packs    map[int]modelPack
	commits  map[int]modelCommit
	branches map[string]modelBranch
	last     int               // so many commits of main are kept, if no other branch keeps more; 0: all
	cut      map[int]bool      // commits that went while one stayed that has them as a parent
	memo     map[string]string // key or old key -> object
	sessions map[int]bool      // by the number of the transaction that made it: there is a row; true: expired
	seen     map[int]int       // epochs that sessions have reported
	epoch    int
	ticket   int // session of the collector; 0: none

	packBlobs map[int][]string
	dataBlobs map[int]bool

	servers [2]*modelServer
	bad     string // the first thing that went wrong
	did     map[string]int
}

// modelServer is a process: what it believes, and what it does.
type modelServer struct {
	m       *model
	session int
	epoch   int               // the newest that it has taken over
	index   map[int]modelPack // as of the last refresh
	stored  map[string]int    // objects that earlier operations have stored, and the epoch of those
	ops     []*modelOp
}

// modelOp is an operation under way.
type modelOp struct {
	s       *modelServer
	session int
	epoch   int // what its server had taken over when it began
	next    func() (struct{}, bool)
	stop    func()
	pause   func()

	relied map[int][]string
	fresh  map[string]bool // objects in no pack with a row
	sealed int             // pack that holds fresh, as a blob; 0: not yet
}

type modelStop struct{}

func newModel(rule broken, draw func(int) int) *model {
	m := &model{
		rule: rule, draw: draw, did: map[string]int{}, last: draw(4), cut: map[int]bool{},
		packs: map[int]modelPack{}, commits: map[int]modelCommit{}, branches: map[string]modelBranch{}, memo: map[string]string{},
		sessions: map[int]bool{}, seen: map[int]int{}, packBlobs: map[int][]string{}, dataBlobs: map[int]bool{},
	}
	p, d, c := m.number(), m.number(), m.number()
	m.packBlobs[p] = []string{"a", "b", "(ab)", "((ab)(ab))"}
	m.packs[p] = modelPack{version: m.number(), objects: m.packBlobs[p]}
	m.dataBlobs[d] = true
	m.commits[c] = modelCommit{version: m.number(), root: "((ab)(ab))", blob: d}
	m.branches["main"] = modelBranch{c, m.number()}
	for i := range m.servers {
		m.servers[i] = m.newServer()
	}
	return m
}

func (m *model) number() int { m.txn++; return m.txn }

func (m *model) newServer() *modelServer {
	s := &modelServer{m: m, session: m.number(), epoch: m.epoch, stored: map[string]int{}}
	m.sessions[s.session] = false
	s.refresh()
	return s
}

func (s *modelServer) refresh() { s.index = maps.Clone(s.m.packs) }

func (m *model) fail(format string, args ...any) {
	if m.bad == "" {
		m.bad = fmt.Sprintf(format, args...)
	}
}

// pick draws an element of a set, in an order that does not depend on the map's.
func pick[K ~int | ~string, V any](m *model, of map[K]V) (K, bool) {
	keys := slices.Sorted(maps.Keys(of))
	if len(keys) == 0 {
		var none K
		return none, false
	}
	return keys[m.draw(len(keys))], true
}

// step does one thing anywhere in the world.
func (m *model) step() {
	s := m.servers[m.draw(2)]
	switch n := m.draw(200); {
	case n < 130:
		if len(s.ops) > 0 {
			i := m.draw(len(s.ops))
			if _, more := s.ops[i].next(); !more {
				s.ops = slices.Delete(s.ops, i, i+1)
			}
		}
	case n < 155:
		if len(s.ops) < 4 {
			kinds := []func(*modelOp){s.commit, s.merge, s.remember, s.useMemo, s.replaceMemo, s.createBranch, s.deleteBranch, s.read, s.collect, s.collect}
			s.begin(kinds[m.draw(len(kinds))])
		}
	case n < 175:
		s.observe()
	case n < 197:
		s.report()
	case n < 198:
		if gone, there := m.sessions[s.session]; there && !gone {
			m.sessions[s.session] = true // it sleeps, or its clock is wrong: from now on it may be fenced
		}
	case n < 199:
		s.restart()
	default:
		if _, there := m.sessions[s.session]; !there { // it notices that it was fenced
			s.restart()
		}
	}
	m.check()
}

// observe lets a server take the newest epoch over.
func (s *modelServer) observe() {
	if s.m.rule != staleIndex {
		s.refresh()
	}
	s.epoch = s.m.epoch
}

// report lets a server say which epoch all of its operations began in.
func (s *modelServer) report() {
	_, alive := s.m.sessions[s.session]
	late := slices.ContainsFunc(s.ops, func(o *modelOp) bool { return o.epoch < s.epoch })
	if alive && (!late || s.m.rule == earlySeen) {
		s.m.seen[s.session] = s.epoch
	}
}

// crash ends a process: its session stays until somebody fences it.
func (s *modelServer) crash() {
	for _, o := range s.ops {
		o.stop()
	}
	s.ops = nil
}

func (s *modelServer) restart() {
	s.crash()
	if _, there := s.m.sessions[s.session]; there {
		s.m.sessions[s.session] = true // nobody renews it
	}
	*s = *s.m.newServer()
}

func (s *modelServer) begin(body func(*modelOp)) {
	o := &modelOp{s: s, session: s.session, epoch: s.epoch, relied: map[int][]string{}, fresh: map[string]bool{}}
	o.next, o.stop = iter.Pull(func(yield func(struct{}) bool) {
		defer func() {
			if r := recover(); r != nil && r != (modelStop{}) {
				panic(r)
			}
		}()
		o.pause = func() {
			if !yield(struct{}{}) {
				panic(modelStop{})
			}
		}
		body(o)
	})
	s.ops = append(s.ops, o)
}

// check holds the world to I1: what a name leads to is there.
func (m *model) check() {
	there := map[string]bool{}
	for id, p := range m.packs {
		if m.packBlobs[id] == nil {
			m.fail("the row of pack %d names no blob", id)
		}
		for _, x := range p.objects {
			there[x] = true
		}
	}
	var need func(who, object string)
	need = func(who, object string) {
		if !there[object] {
			m.fail("%s names %s, which is gone", who, object)
		}
		for _, c := range children(object) {
			need(who, c)
		}
	}
	for id, c := range m.commits {
		who := fmt.Sprintf("commit %d", id)
		need(who, c.root)
		if !m.dataBlobs[c.blob] {
			m.fail("%s names data %d, which is gone", who, c.blob)
		}
		for _, p := range c.parents {
			if _, ok := m.commits[p]; !ok && !m.cut[p] {
				m.fail("%s has the parent %d, which is gone", who, p)
			}
		}
	}
	for id := range m.cut {
		if _, ok := m.commits[id]; ok {
			m.fail("commit %d is there, and noted as gone", id)
		}
	}
	for name, b := range m.branches {
		if _, ok := m.commits[b.commit]; !ok {
			m.fail("branch %s names commit %d, which is gone", name, b.commit)
		}
	}
	for key, object := range m.memo {
		need("memo "+key, object)
	}
}

// run takes steps until something is wrong.
func (m *model) run(steps int) string {
	defer func() {
		for _, s := range m.servers {
			s.crash()
		}
	}()
	for range steps {
		if m.step(); m.bad != "" {
			break
		}
	}
	return m.bad
}

const modelSteps = 800

// Whatever is interleaved, what a name leads to is there, and nobody who is alive misses anything.
func TestGarbageProtocol(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newModel("", func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "step") })
		if bad := m.run(modelSteps); bad != "" {
			t.Fatal(bad)
		}
	})
}

// Stories by the hundred reach every part of the protocol.
func TestGarbageProtocolReachesAll(t *testing.T) {
	t.Parallel()
	did := map[string]int{}
	for seed := range uint64(200) {
		m := newModel("", rand.New(rand.NewPCG(seed, 1)).IntN)
		if bad := m.run(modelSteps); bad != "" {
			t.Fatalf("seed %d: %s", seed, bad)
		}
		for what, n := range m.did {
			did[what] += n
		}
	}
	for _, what := range []string{
		"commit", "merge", "publish of a memo row", "memo", "branch", "read", "collection",
		"orphan", "data file", "commit removed", "history cut", "reprieve", "rewrite", "sweep",
	} {
		if did[what] < 20 {
			t.Errorf("%d times only: %s", did[what], what)
		}
	}
	t.Log(did)
}

// Without any one of its rules the protocol loses data, or a writer that did nothing wrong.
func TestGarbageProtocolNeedsEveryRule(t *testing.T) {
	t.Parallel()
	for _, rule := range allBroken {
		t.Run(string(rule), func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(4000) {
				m := newModel(rule, rand.New(rand.NewPCG(seed, 2)).IntN)
				if bad := m.run(modelSteps); bad != "" {
					t.Logf("story %d: %s", seed, bad)
					return
				}
			}
			t.Error("nothing went wrong")
		})
	}
}

// The assertion of packs in a commit is a second line: operations that the collector waits for are safe
// without it. It saves rewriting a pack that has just been relied on.
func TestGarbageProtocolHoldsWithoutAssertions(t *testing.T) {
	t.Parallel()
	for seed := range uint64(100) {
		m := newModel(noAssert, rand.New(rand.NewPCG(seed, 3)).IntN)
		if bad := m.run(modelSteps); bad != "" {
			t.Fatalf("story %d: %s", seed, bad)
		}
	}
}
