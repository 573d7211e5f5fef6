//go:build linux

package process

import (
	"time"

	"tarn.dev/tarn/internal/runtime"
)

// PassDeadline ends the time that the last message to the supervisor of a running command had.
func PassDeadline(sb runtime.Sandbox) error {
	s := sb.(*sandbox) //nolint:forcetypeassert // this package makes no other
	s.mu.Lock()
	running := s.live
	s.mu.Unlock()
	<-running.started
	return running.sup.job.SetWriteDeadline(time.Unix(1, 0))
}
