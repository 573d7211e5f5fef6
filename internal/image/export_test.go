package image

// Relocate is relocate.
var Relocate = relocate

// Settle waits for what works in the background.
func (s *Store) Settle() { s.background.Wait() }
