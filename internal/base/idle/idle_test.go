package idle_test

import (
	"testing"
	"testing/synctest"
	"time"

	"tarn.dev/tarn/internal/base/idle"
)

func isDone(t *idle.Tracker) bool {
	synctest.Wait()
	select {
	case <-t.Done():
		return true
	default:
		return false
	}
}

func TestTracker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tr := idle.New(time.Minute)
		time.Sleep(59 * time.Second)
		a, b := tr.Hold(), tr.Hold()
		time.Sleep(time.Hour)
		a()
		a() // has no second effect: b still holds
		time.Sleep(time.Hour)
		if isDone(tr) || tr.Active() != 1 {
			t.Fatalf("done while held; active %d", tr.Active())
		}
		b()
		time.Sleep(59 * time.Second)
		if isDone(tr) {
			t.Fatal("done a second early")
		}
		time.Sleep(2 * time.Second)
		if !isDone(tr) {
			t.Fatal("not done after a minute without holds")
		}
		tr.Hold()() // after the end: no second close
		time.Sleep(time.Hour)
	})
}

// A short time does not end a process before anybody could come.
func TestFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tr := idle.New(time.Millisecond)
		time.Sleep(9 * time.Second)
		if isDone(tr) {
			t.Fatal("done before the first hold")
		}
		tr.Hold()()
		time.Sleep(time.Second)
		if !isDone(tr) {
			t.Fatal("not done after the first hold")
		}
	})
}

func TestNever(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		never, stopped := idle.New(0), idle.New(time.Second)
		stopped.Stop()
		stopped.Hold()()
		time.Sleep(time.Hour)
		if isDone(never) || isDone(stopped) {
			t.Fatal("done")
		}
	})
}
