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
//   - L5: a segment lists only packs whose footers it was made from; losing every segment loses nothing.
//
// Start reading at lake.go, then batch.go. The bytes are specified in docs/formats: objects.md, pack.md
// and file.md.
package lake
