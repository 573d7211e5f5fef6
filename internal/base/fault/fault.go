// Package fault has named points at which a test can make the process fail, hang or die.
//
// Code calls Point with a literal, unique name where a crash would hurt most. Without the build tag
// "fault" Point is empty and inlined away. With it, the variable TARN_FAULT programs points of a child
// process, and Set those of the own process:
//
//	TARN_FAULT="lake.commit.after_pack=2*off->1*error(disk on fire);flow.publish.before_ref=kill"
//
// A program is a chain of terms; each holds for its count of hits, the last one without a count for
// ever, and after the last counted one the point is quiet.
//
//	off         nothing
//	error(x)    Point returns an error (code internal, reason fault.injected) with message x
//	exit(n)     the process exits with code n, 1 when left out, without running deferred calls
//	kill        the process sends itself SIGKILL
//	panic(x)    Point panics
//	delay(ms)   Point returns after that time
//	pause       Point makes the file $TARN_FAULT_DIR/NAME and returns when somebody removes it
//	count       Point appends a byte to the file $TARN_FAULT_DIR/NAME
//
// faulttest.Names lists all points of a source tree.
package fault

import "tarn.dev/tarn/internal/base/errdef"

// ErrInjected is what error(x) makes Point return.
var ErrInjected = errdef.New(errdef.Internal, "fault.injected", "injected fault")
