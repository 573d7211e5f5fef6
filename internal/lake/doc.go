// Package lake is the git core of Tarn: immutable objects named by their hash, packs that hold them,
// trees, commits, refs, diff and merge. It knows nothing of tables, functions or runs; what it stores
// beyond its own nodes is bytes.
//
// Terms. An object is a typed byte string, named by its Hash. A pack is one blob with many objects and
// a footer that lists them; meta has one row per pack. An index segment is a blob that maps the objects
// of many packs to their places; it is derived from the footers and can be rebuilt. A chunk is a piece
// of a file, a file node lists chunks. A Batch collects new objects into packs.
//
// Invariants of this half (objects, packs, index, files):
//
//   - L1: an object's bytes are checked against its hash on every read from a pack; bytes that do not
//     match are never returned and never cached.
//   - L2: a pack is durable before its row exists, and a row before anything names its objects.
//   - L3: a pack's name is never used twice, so that deleting one cannot race with writing one.
//   - L4: only a pack whose row says live satisfies a dedup hit, and the transaction that makes the new
//     objects visible asserts that every such row is unchanged.
//     Everything that reads and later names stored things is an operation (Enter); see gc.go.
//   - L5: a segment lists only packs whose footers it was made from; losing every segment loses nothing.
//
// Invariants of the history (trees, commits, refs):
//
//   - L6: the same entries make the same tree, whatever the order of changes.
//   - L7: commits do not change; a branch moves only in a transaction that is conditional on its row, on
//     the ticket of whoever moves it, and on all packs relied on; a tag never moves.
//   - L8: what the location of an entry names exists when the entry becomes visible.
//   - L9: every move of a branch has a line in its reflog, and the last line says where the branch is.
//   - L10: a request id is done once.
//
// Start reading at lake.go, then batch.go for objects and update.go for the history. The bytes are
// specified in docs/formats: objects.md, pack.md, file.md, tree.md, entry.md and commit.md; the history
// is explained in docs/design/history.md.
package lake
