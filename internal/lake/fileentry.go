package lake

// FileEntry is the entry of a file with this content: its identity is the content's hash, so that a file
// written twice, or cut in another way, is no change.
func FileEntry(ref FileRef) Entry {
	return Entry{Kind: KindFile, Version: ref.Hash.String(), Location: Location{Ref: ref, Size: ref.Size}}
}
