package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/build"
	"tarn.dev/tarn/internal/client"
	"tarn.dev/tarn/internal/system/home"
)

const callsSource = `import sys
import time

import tarn


@tarn.function
def nothing(n):
    return n


if __name__ == "__main__":
    nothing.remote(0)
    took = []
    for i in range(int(sys.argv[2])):
        began = time.perf_counter()
        nothing.remote(i)
        took.append(time.perf_counter() - began)
    took.sort()
    began = time.perf_counter()
    n = sum(1 for _ in nothing.map(range(int(sys.argv[1]))))
    print(took[len(took) // 2], took[len(took) * 99 // 100], time.perf_counter() - began, n)
    began = time.perf_counter()
    for i in range(int(sys.argv[1])):
        nothing(i)
    print(time.perf_counter() - began)
`

// callsBench measures plain functions, called from Python and from Go.
func callsBench(ctx context.Context, b *bench) error {
	inputs := b.size(10_000, 2000)
	dir, err := b.project("calls", map[string]string{"f.py": callsSource})
	if err != nil {
		return err
	}
	sdk, err := filepath.Abs("sdk/python/src")
	if err != nil {
		return err
	}
	path := filepath.Join(b.dir, "path")
	if err := errors.Join(os.MkdirAll(path, 0o755), os.Symlink(b.bin, filepath.Join(path, "tarn"))); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "python3", filepath.Join(dir, "f.py"), fmt.Sprint(inputs), fmt.Sprint(b.size(500, 100)))
	cmd.Dir, cmd.Env, cmd.Stderr = dir, append(b.env(), "PYTHONPATH="+sdk, "PATH="+path+":"+os.Getenv("PATH")), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("python3 f.py: %w", err)
	}
	var median, p99, mapped, plain float64
	var n int
	if _, err := fmt.Sscan(string(out), &median, &p99, &mapped, &n, &plain); err != nil {
		return fmt.Errorf("read %q: %w", out, err)
	}
	if n != inputs {
		return fmt.Errorf("%d results of %d inputs", n, inputs)
	}
	if err := b.goCalls(ctx, dir); err != nil {
		return err
	}
	row{"warm call from Python, median", median * 1000, "ms", nil, "", 0}.print()
	row{"warm call from Python, p99", p99 * 1000, "ms", nil, "", 0}.print()
	row{fmt.Sprintf("map of %d inputs that do nothing", inputs), float64(inputs) / mapped, "inputs/s", atLeast(1000), "plain calls in the same interpreter", float64(inputs) / mapped / (float64(inputs) / plain)}.print()
	return nil
}

// goCalls measures the round trip of a call that has a worker already, from the Go client. The peer is a request that the server
// answers by itself: a call is three of them.
func (b *bench) goCalls(ctx context.Context, dir string) (err error) {
	at, err := home.At(filepath.Join(b.dir, "home"))
	if err != nil {
		return err
	}
	c, err := client.Open(ctx, client.Options{Home: at, Build: build.Current(), NoStart: true})
	if err != nil {
		return err
	}
	defer c.Close()
	var took, bare []time.Duration
	for i := range b.size(500, 100) {
		began := time.Now()
		if err := callNothing(ctx, c, dir, fmt.Sprintf("bench-%d", i)); err != nil {
			return err
		}
		took = append(took, time.Since(began))
		began = time.Now()
		if _, err := c.System.Status(ctx, &tarnv1.StatusRequest{}); err != nil {
			return err
		}
		bare = append(bare, time.Since(began))
	}
	slices.Sort(took)
	slices.Sort(bare)
	median, p99, trip := took[len(took)/2], took[len(took)*99/100], bare[len(bare)/2]
	what := fmt.Sprintf("a request that runs nothing (%s ms)", number(milliseconds(trip)))
	row{"warm call from Go, median", milliseconds(median), "ms", atMost(5), what, float64(median) / float64(trip)}.print()
	row{"warm call from Go, p99", milliseconds(p99), "ms", nil, "", 0}.print()
	return nil
}

// pickledCall is pickle.dumps(((0,), {})).
const pickledCall = "\x80\x04K\x00\x85}\x86."

// callNothing calls nothing(0).
func callNothing(ctx context.Context, c *client.Client, dir, id string) error {
	project := filepath.Base(dir)
	started, err := c.Calls.Start(ctx, &tarnv1.StartCallRequest{RequestId: id, Project: project, Dir: dir, File: "f.py", Qualname: "nothing", Waits: true})
	if err != nil {
		return err
	}
	call := started.GetCall().GetId()
	if _, err := c.Calls.Put(ctx, &tarnv1.PutInputsRequest{Project: project, Call: call, Inputs: [][]byte{[]byte(pickledCall)}, Last: true}); err != nil {
		return err
	}
	results, err := c.Calls.Results(ctx, &tarnv1.CallResultsRequest{Project: project, Call: call})
	if err != nil {
		return err
	}
	n := 0
	for results.Receive() {
		if r := results.Msg().GetResult(); r != nil {
			if e := r.GetError(); e != nil {
				return errors.New(e.GetMessage())
			}
			n++
		}
	}
	if err := errors.Join(results.Err(), results.Close()); err != nil {
		return err
	}
	if n != 1 {
		return fmt.Errorf("%d results of one input", n)
	}
	return nil
}
