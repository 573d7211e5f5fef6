//go:build linux

package process

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/runtime"
)

// ErrEnded is returned by Assign when the command ended meanwhile.
var ErrEnded = errdef.New(errdef.FailedPrecondition, "runtime.ended", "the command has ended")

// order is what a supervisor is told after its job.
type order struct {
	Withdraw [][]byte // what is not shown any more
	Root     root
	Limits   runtime.Limits
	Own      [][]byte // as that of a job, beside those of the job
}

// live is the command of a Run under way.
type live struct {
	started chan struct{} // closed when sup is known and takes orders
	over    chan struct{} // closed when the command has ended
	sup     *supervisor
	turn    chan struct{} // one order at a time
	answers chan shown
	wrote   func(bytes int64)
}

func newLive() *live {
	return &live{started: make(chan struct{}), over: make(chan struct{}), turn: make(chan struct{}, 1), answers: make(chan shown)}
}

// begin says that the command runs.
func (l *live) begin(sup *supervisor) {
	l.sup = sup
	close(l.started)
}

// answer passes on what the supervisor said to an order.
func (l *live) answer(a shown) {
	select {
	case l.answers <- a:
	case <-l.over:
	}
}

// Assign implements runtime.Sandbox.
func (s *sandbox) Assign(ctx context.Context, limits runtime.Limits, mounts ...runtime.Mount) error {
	limits = s.runtime.bounded(limits)
	s.mu.Lock()
	spec := s.spec
	given := len(spec.Mounts) - s.assigned
	before := spec.Mounts[given:]
	spec.Mounts, spec.Limits = slices.Concat(spec.Mounts[:given], mounts), limits
	paths, err := checkSpec(spec)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	s.spec.Mounts, s.spec.Limits, s.paths, s.assigned = spec.Mounts, spec.Limits, paths, len(mounts)
	running := s.live
	s.mu.Unlock()
	if running == nil {
		return nil
	}
	o := order{Limits: limits, Own: s.counted(mounts)}
	var binds []bind
	if s.runtime.level != runtime.Process {
		for _, m := range slices.Backward(before) {
			if !everywhere(m) {
				o.Withdraw = append(o.Withdraw, []byte(inside(m)))
			}
		}
		if binds, err = s.binds(mounts); err != nil {
			return err
		}
	}
	for {
		n := min(len(binds), maxMounts)
		o.Root.Binds, binds = binds[:n], binds[n:]
		if err := s.assign(ctx, running, o); err != nil || len(binds) == 0 {
			return err
		}
		o.Withdraw = nil
	}
}

// assign gives one order and waits until it is done.
func (s *sandbox) assign(ctx context.Context, to *live, o order) error {
	ended := ErrEnded.Errorf("sandbox %s: its command has ended", s.spec.ID)
	select {
	case <-to.started:
	case <-to.over:
		return ended
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case to.turn <- struct{}{}:
		defer func() { <-to.turn }()
	case <-to.over:
		return ended
	}
	if err := to.sup.order(o); err != nil {
		select {
		case <-to.over:
			return ended
		default:
			return ErrNotStarted.Errorf("sandbox %s: tell its supervisor more: %w", s.spec.ID, err)
		}
	}
	// Not given up when ctx ends: the next order would get this one's answer. A supervisor answers at once.
	select {
	case a := <-to.answers:
		if a.Failure != "" {
			return ErrInvalidSpec.Errorf("sandbox %s: %s", s.spec.ID, a.Failure)
		}
		return nil
	case <-to.over:
		return ended
	}
}

func (s *supervisor) order(o order) error {
	if err := s.writable(); err != nil {
		return err
	}
	if s.cgroup != nil {
		if err := s.cgroup.limit(o.Limits); err != nil {
			return err
		}
	}
	var mounts []int
	if len(o.Root.Binds) > 0 {
		var err error
		if mounts, err = o.Root.trees(s.users); err != nil {
			return err
		}
		defer closeAll(mounts)
	}
	if _, _, err := s.job.WriteMsgUnix([]byte{0}, unix.UnixRights(mounts...), nil); err != nil {
		return err
	}
	return writeJob(s.job, o)
}

// heedServer does what the server orders beside the job, and ends everything when it closes the socket, by intent
// or because it was killed.
func (w *watch) heedServer() {
	defer w.kill(runtime.Canceled)
	for {
		mounts, err := receiveMounts()
		if err != nil {
			return
		}
		var o order
		if err := readJob(w.jobs, &o); err != nil {
			closeAll(mounts)
			return
		}
		var answer shown
		if err := errors.Join(withdraw(o.Withdraw), o.Root.bind(w.outside, mounts, w.attachLate)); err != nil {
			answer.Failure = err.Error()
		}
		w.limit(o.Limits, slices.Concat(w.job.Own, o.Own))
		_ = w.reports.Encode(report{Shown: &answer}) // failing means that the server is gone
	}
}

// withdraw takes mounts away. One that could not be shown is none.
func withdraw(targets [][]byte) error {
	for _, target := range targets {
		err := unix.Unmount(string(target), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("withdraw %s: %w", target, err)
		}
	}
	return nil
}

// limit replaces the limits, and the folders that count.
func (w *watch) limit(l runtime.Limits, own [][]byte) {
	w.mu.Lock()
	before := w.limits
	w.limits, w.own = l, own
	w.mu.Unlock()
	if before.DiskBytes == 0 && l.DiskBytes > 0 {
		go w.sampleDisk()
	}
}

func (w *watch) limitsNow() runtime.Limits {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.limits
}
