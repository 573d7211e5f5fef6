package prolly

import (
	"bytes"
	"context"
	"iter"
)

// Side says which side of a three-way comparison changed a key.
type Side uint8

// The sides. Both means that both changed it, maybe to the same value.
const (
	Source Side = 1 << iota
	Target
	Both = Source | Target
)

// ThreeWay is a key that differs from the base on at least one side; nil values are absent.
type ThreeWay struct {
	Key                  []byte
	Base, Source, Target []byte
	Changed              Side
}

// Merge3 yields, in key order, every key of r that source or target changed since base. Its cost
// follows the number of changes on both sides.
func Merge3(ctx context.Context, base, source, target Map, r Range) iter.Seq2[ThreeWay, error] {
	return func(yield func(ThreeWay, error) bool) {
		nextSource, stopSource := iter.Pull2(Diff(ctx, base, source, r))
		defer stopSource()
		nextTarget, stopTarget := iter.Pull2(Diff(ctx, base, target, r))
		defer stopTarget()
		s, errSource, okSource := nextSource()
		t, errTarget, okTarget := nextTarget()
		for okSource || okTarget {
			for _, err := range []error{errSource, errTarget} {
				if err != nil {
					yield(ThreeWay{}, err)
					return
				}
			}
			order := 0
			switch {
			case !okTarget:
				order = -1
			case !okSource:
				order = 1
			default:
				order = bytes.Compare(s.Key, t.Key)
			}
			var w ThreeWay
			switch {
			case order < 0:
				w = ThreeWay{Key: s.Key, Base: s.Before, Source: s.After, Target: s.Before, Changed: Source}
			case order > 0:
				w = ThreeWay{Key: t.Key, Base: t.Before, Source: t.Before, Target: t.After, Changed: Target}
			default:
				w = ThreeWay{Key: s.Key, Base: s.Before, Source: s.After, Target: t.After, Changed: Both}
			}
			if order <= 0 {
				s, errSource, okSource = nextSource()
			}
			if order >= 0 {
				t, errTarget, okTarget = nextTarget()
			}
			if !yield(w, nil) {
				return
			}
		}
	}
}
