package lake_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The operations of the model: everything between two pauses is one transaction, or one call of the blob
// store.

// alive is the session's condition.
func (o *modelOp) alive() bool { _, there := o.s.m.sessions[o.session]; return there }

// end gives the operation up.
func (o *modelOp) end() { panic(modelStop{}) }

// lost ends an operation that misses something. That may happen to one whose session is gone only.
func (o *modelOp) lost(format string, args ...any) {
	if o.alive() {
		o.s.m.fail(format, args...)
	}
	o.end()
}

// children of an object.
func children(object string) []string {
	if len(object) == 1 {
		return nil
	}
	half := len(object) / 2
	return []string{object[1:half], object[half : len(object)-1]}
}

// find looks an object up in what the server knows: in a live pack, else a condemned one.
func (s *modelServer) find(object string) (pack int, live bool) {
	for _, id := range slices.Sorted(maps.Keys(s.index)) {
		p := s.index[id]
		if !slices.Contains(p.objects, object) {
			continue
		}
		if !p.condemned {
			return id, true
		}
		pack = id
	}
	return pack, false
}

// put stores an object with all that is below it.
func (o *modelOp) put(object string) {
	if at, ok := o.s.stored[object]; ok && (at == o.epoch || o.s.m.rule == oldKnowledge) {
		return
	}
	for _, c := range children(object) {
		o.put(c)
	}
	o.putOne(object)
}

func (o *modelOp) putOne(object string) {
	pack, live := o.s.find(object)
	if live || pack != 0 && o.s.m.rule == reuseCondemned {
		o.relied[pack] = append(o.relied[pack], object)
		return
	}
	o.fresh[object] = true
}

// require relies on an object that was read from a root, not on what is below it.
func (o *modelOp) require(object string) {
	for range 2 {
		if pack, live := o.s.find(object); live {
			o.relied[pack] = append(o.relied[pack], object)
			return
		} else if pack != 0 && o.readFrom(pack, object) {
			o.fresh[object] = true
			return
		}
		o.s.refresh()
	}
	o.lost("%s is required and is gone", object)
}

func (o *modelOp) readFrom(pack int, object string) bool {
	return slices.Contains(o.s.m.packBlobs[pack], object)
}

// seal makes fresh objects durable and looks at the packs that are relied on, as Batch.seal does.
func (o *modelOp) seal() {
	for {
		pack, ok := 0, false
		for _, id := range slices.Sorted(maps.Keys(o.relied)) {
			if row, there := o.s.m.packs[id]; o.s.m.rule != noAssert && (!there || row.condemned && o.s.m.rule != reuseCondemned) {
				pack, ok = id, true
				break
			}
		}
		if !ok {
			break
		}
		objects := o.relied[pack]
		delete(o.relied, pack)
		o.s.refresh()
		o.pause()
		for _, object := range objects {
			o.require(object)
		}
	}
	if len(o.fresh) > 0 {
		o.sealed = o.s.m.number()
		o.s.m.packBlobs[o.sealed] = slices.Sorted(maps.Keys(o.fresh))
	}
	o.pause()
}

// relies are the conditions of what seal has found.
func (o *modelOp) relies() bool {
	for id := range o.relied {
		if row, there := o.s.m.packs[id]; o.s.m.rule != noAssert && (!there || row.condemned && o.s.m.rule != reuseCondemned) {
			return false
		}
	}
	return true
}

// register is the part of a transaction that lists the sealed pack.
func (o *modelOp) register() {
	if o.sealed == 0 {
		return
	}
	o.s.m.packs[o.sealed] = modelPack{version: o.s.m.number(), objects: o.s.m.packBlobs[o.sealed]}
	o.s.index[o.sealed] = o.s.m.packs[o.sealed]
	o.relied[o.sealed] = slices.Sorted(maps.Keys(o.fresh))
	o.sealed, o.fresh = 0, map[string]bool{}
}

// flush makes what was put findable without a root.
func (o *modelOp) flush() {
	for {
		o.seal()
		if !o.alive() && o.s.m.rule != zombieFlush {
			o.end()
		}
		if o.relies() {
			o.register()
			return
		}
	}
}

// leaves: as many as make it likely that nothing else keeps one alive.
const leaves = "abcdefghijklmnop"

func (m *model) leafPair() string {
	return "(" + string(leaves[m.draw(len(leaves))]) + string(leaves[m.draw(len(leaves))]) + ")"
}

// commit puts half of a new tree and adopts the other half from the head, then moves the branch.
func (s *modelServer) commit(o *modelOp) { o.publish("commit", s.m.leafPair(), true, 0) }

// merge adopts half of another branch's tree.
func (s *modelServer) merge(o *modelOp) {
	from, _ := pick(s.m, s.m.branches)
	source := s.m.branches[from].commit
	o.pause()
	o.publish("merge", "", false, source)
}

// useMemo reads a memo row and publishes what it names.
func (s *modelServer) useMemo(o *modelOp) {
	key, ok := pick(s.m, s.m.memo)
	if !ok {
		return
	}
	object := s.m.memo[key]
	o.pause()
	o.publish("publish of a memo row", object, false, 0)
}

// publish moves a branch to a new commit. Its left half is put, or read from a root; with a source, it is
// the left half of the source's tree, which becomes a parent.
func (o *modelOp) publish(what, left string, put bool, source int) {
	m := o.s.m
	name, _ := pick(m, m.branches)
	for range 8 {
		head, there := m.branches[name]
		if !there {
			o.end()
		}
		base, there := m.commits[head.commit]
		from, sourceThere := m.commits[source]
		if !there || source != 0 && !sourceThere {
			o.end() // it was removed since
		}
		o.relied, o.fresh, o.sealed = map[int][]string{}, map[string]bool{}, 0
		half := left
		if source != 0 {
			half = children(from.root)[0]
		}
		o.pause()
		if put {
			o.put(half)
		} else if source == 0 {
			o.require(half)
		}
		root := "(" + half + children(base.root)[1] + ")"
		if source != 0 && m.draw(2) == 0 {
			root = "(" + children(base.root)[1] + half + ")"
		}
		o.putOne(root)
		blob := base.blob
		if m.draw(2) == 0 {
			blob = m.number()
			m.dataBlobs[blob] = true
			o.pause()
		}
		o.seal()
		if !o.alive() && m.rule != noFence {
			o.end()
		}
		_, sourceThere = m.commits[source]
		if source != 0 && !sourceThere {
			o.end()
		}
		if m.branches[name] != head || !o.relies() {
			continue
		}
		o.register()
		id, parents := m.number(), []int{head.commit}
		generation := base.generation
		if source != 0 {
			parents = append(parents, source)
			generation = max(generation, m.commits[source].generation)
			m.touch(source)
		}
		m.commits[id] = modelCommit{version: m.number(), generation: generation + 1, root: root, blob: blob, parents: parents}
		m.branches[name] = modelBranch{id, m.number()}
		m.did[what]++
		return
	}
}

// touch is what every transaction does to a commit's row that it names again.
func (m *model) touch(id int) {
	c := m.commits[id]
	if m.rule != noTouch {
		c.version = m.number()
	}
	m.commits[id] = c
}

// remember stores a result, then the memo row that names it; a copy of what it knows stays behind.
func (s *modelServer) remember(o *modelOp) {
	object := s.m.leafPair()
	o.put(object)
	o.flush()
	s.stored[object] = o.epoch
	o.pause()
	key := fmt.Sprintf("k%d", s.m.draw(3))
	if _, there := s.m.memo[key]; !there && (o.alive() || s.m.rule == zombieFlush) {
		s.m.memo[key] = object
		s.m.did["memo"]++
	}
}

// replaceMemo stores another result for a key.
func (s *modelServer) replaceMemo(o *modelOp) {
	key, ok := pick(s.m, s.m.memo)
	object := s.m.leafPair()
	if !ok {
		return
	}
	o.put(object)
	o.flush()
	o.pause()
	was, there := s.m.memo[key]
	if !o.alive() && s.m.rule != zombieFlush {
		return
	}
	if there && s.m.rule != userRemoves {
		s.m.memo[fmt.Sprintf("old%d", s.m.number())] = was
	}
	s.m.memo[key] = object
}

func (s *modelServer) createBranch(o *modelOp) {
	id, ok := pick(s.m, s.m.commits)
	name := fmt.Sprintf("b%d", s.m.draw(3))
	o.pause()
	if _, there := s.m.commits[id]; !ok || !there {
		return
	}
	if _, taken := s.m.branches[name]; !taken {
		s.m.branches[name] = modelBranch{id, s.m.number()}
		s.m.touch(id)
		s.m.did["branch"]++
	}
}

func (s *modelServer) deleteBranch(*modelOp) {
	if name, _ := pick(s.m, s.m.branches); name != "main" {
		delete(s.m.branches, name)
	}
}

// read follows a branch, object by object. What it read from a root stays readable while it goes on.
func (s *modelServer) read(o *modelOp) {
	name, _ := pick(s.m, s.m.branches)
	c, there := s.m.commits[s.m.branches[name].commit]
	if !there {
		return
	}
	pending := []string{c.root}
	for len(pending) > 0 {
		object := pending[0]
		pending = append(pending[1:], children(object)...)
		o.pause()
		found := false
		for range 3 {
			if pack, _ := s.find(object); pack != 0 && o.readFrom(pack, object) {
				found = true
				break
			}
			s.refresh()
		}
		if !found {
			o.lost("a reader misses %s", object)
		}
	}
	o.pause()
	if !s.m.dataBlobs[c.blob] {
		o.lost("a reader misses data %d", c.blob)
	}
	s.m.did["read"]++
}

// mark returns what roots lead to. It reads the commits, then the memo: two looks at the rows.
func (o *modelOp) mark() (objects map[string]bool, blobs map[int]bool) {
	objects, blobs = map[string]bool{}, map[int]bool{}
	var pending []string
	for _, c := range o.s.m.commits {
		pending = append(pending, c.root)
		blobs[c.blob] = true
	}
	o.pause()
	pending = slices.AppendSeq(pending, maps.Values(o.s.m.memo))
	for len(pending) > 0 {
		object := pending[0]
		pending = pending[1:]
		if !objects[object] {
			objects[object] = true
			pending = append(pending, children(object)...)
		}
	}
	return objects, blobs
}

// mine is the condition of every transaction of the collector.
func (o *modelOp) mine() bool {
	return o.alive() && (o.s.m.ticket == o.session || o.s.m.rule == noTicket)
}

func (o *modelOp) need() {
	if !o.mine() {
		o.end()
	}
}

// collect is a whole collection.
func (s *modelServer) collect(o *modelOp) {
	m := s.m
	o.epoch = 1 << 30 // the collector reads what roots lead to, nothing else: nobody waits for it
	if _, held := m.sessions[m.ticket]; held && m.rule != noTicket || !o.alive() {
		return
	}
	m.ticket = o.session
	defer func() {
		if m.ticket == o.session {
			m.ticket = 0
		}
	}()
	o.pause()
	o.removeRoots()
	o.pause()

	first, firstBlobs := o.mark()
	var dataGarbage, orphans []int
	for id := range m.dataBlobs {
		if !firstBlobs[id] {
			dataGarbage = append(dataGarbage, id)
		}
	}
	for id := range m.packBlobs {
		if _, named := m.packs[id]; !named {
			orphans = append(orphans, id)
		}
	}
	slices.Sort(orphans)
	for _, id := range slices.Sorted(maps.Keys(m.packs)) {
		if m.draw(4) == 0 {
			o.pause()
			o.need()
		}
		p := m.packs[id]
		dead := slices.ContainsFunc(p.objects, func(x string) bool { return !first[x] })
		if !p.condemned && (dead || m.draw(4) == 0) {
			p.condemned, p.version = true, m.number()
			m.packs[id] = p
		}
	}
	o.need()
	m.epoch = m.number()
	epoch := m.epoch
	if m.rule != orphansNow {
		o.await(epoch)
	}
	marked, markedBlobs := first, firstBlobs
	if m.rule != noSecondMark {
		marked, markedBlobs = o.mark()
	}
	for _, id := range orphans {
		if _, named := m.packs[id]; !named {
			delete(m.packBlobs, id)
			m.did["orphan"]++
			o.pause()
		}
	}
	if m.rule == orphansNow {
		o.await(epoch)
		marked, markedBlobs = o.mark()
	}
	for _, id := range dataGarbage {
		if !markedBlobs[id] {
			delete(m.dataBlobs, id)
			m.did["data file"]++
			o.pause()
		}
	}
	for _, id := range slices.Sorted(maps.Keys(m.packs)) {
		if m.packs[id].condemned {
			o.sweep(id, marked)
		}
	}
	m.did["collection"]++
}

// removeRoots takes memo rows and commits that no branch leads to away.
func (o *modelOp) removeRoots() {
	m := o.s.m
	branches := maps.Clone(m.branches)
	if m.rule == branchesFirst {
		o.pause()
	}
	commits := maps.Clone(m.commits)
	if m.rule == commitsFirst {
		o.pause()
		branches = maps.Clone(m.branches)
	}
	reached := m.reach(branches)
	unreached := slices.DeleteFunc(slices.Sorted(maps.Keys(commits)), func(id int) bool { return reached[id] })
	slices.SortFunc(unreached, func(a, b int) int { return commits[b].generation - commits[a].generation })
	if m.rule == ancestorsFirst {
		slices.Reverse(unreached)
	}
	for _, id := range unreached {
		o.pause()
		o.need()
		if m.commits[id].version != commits[id].version {
			break // it lives again, with all of its ancestors
		}
		delete(m.commits, id)
		m.did["commit removed"]++
		if m.rule == cutLater {
			o.pause()
		}
		for child := range reached {
			if slices.Contains(commits[child].parents, id) {
				m.cut[id] = true
				m.did["history cut"]++
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(m.memo)) {
		if strings.HasPrefix(key, "old") || m.draw(3) == 0 {
			o.pause()
			o.need()
			delete(m.memo, key)
		}
	}
}

// reach returns the commits that stay: all that other branches lead to, and the last ones of main.
func (m *model) reach(branches map[string]modelBranch) map[int]bool {
	reached := map[int]bool{}
	from := func(pending []int, most int) {
		for ; len(pending) > 0 && most != 0; most-- {
			slices.SortFunc(pending, func(a, b int) int { return m.commits[b].generation - m.commits[a].generation })
			id := pending[0]
			pending = pending[1:]
			if _, there := m.commits[id]; !there || reached[id] && most < 0 {
				continue
			}
			reached[id] = true
			for _, p := range m.commits[id].parents {
				if !slices.Contains(pending, p) {
					pending = append(pending, p)
				}
			}
		}
	}
	for name, b := range branches {
		if name != "main" || m.last == 0 {
			from([]int{b.commit}, -1)
		}
	}
	if m.last > 0 {
		from([]int{branches["main"].commit}, m.last)
	}
	return reached
}

// await returns when every session has reported the epoch, began after it, or was fenced.
func (o *modelOp) await(epoch int) {
	m := o.s.m
	for m.rule != noWait {
		waiting := false
		for _, id := range slices.Sorted(maps.Keys(m.sessions)) {
			switch {
			case id > epoch || m.seen[id] >= epoch:
			case m.sessions[id] && id != o.session:
				if m.rule != noFence {
					delete(m.sessions, id)
				}
			default:
				waiting = true
			}
		}
		if !waiting {
			return
		}
		o.pause()
		o.need()
	}
}

// sweep deletes a condemned pack; objects of it that are marked go into another one before.
func (o *modelOp) sweep(id int, marked map[string]bool) {
	m := o.s.m
	o.pause()
	row := m.packs[id]
	survivors := slices.DeleteFunc(slices.Clone(row.objects), func(x string) bool { return !marked[x] })
	if len(survivors) == len(row.objects) {
		o.need()
		row.condemned, row.version = false, m.number()
		m.packs[id] = row
		m.did["reprieve"]++
		return
	}
	if m.rule == rowFirst {
		o.need()
		delete(m.packs, id)
	}
	next := 0
	if len(survivors) > 0 {
		next = m.number()
		m.packBlobs[next] = survivors
		o.pause()
		m.did["rewrite"]++
	}
	o.need()
	if m.packs[id].version != row.version && m.rule != rowFirst {
		return
	}
	if m.rule == blobFirst {
		delete(m.packBlobs, id)
		o.pause()
		o.need()
	}
	if next != 0 {
		m.packs[next] = modelPack{version: m.number(), objects: survivors}
	}
	delete(m.packs, id)
	m.did["sweep"]++
	o.pause()
	delete(m.packBlobs, id)
}
