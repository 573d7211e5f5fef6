package flow

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/flow/memo"
	"tarn.dev/tarn/internal/image"
	"tarn.dev/tarn/internal/runtime"
)

// python runs items in one sandbox, or in one each if the function says so. When a sandbox ends because of the item that was
// under way, those that had not begun go on in another.
func (a *attempt) python(ctx context.Context, scratch string, invs []*invocation) error {
	view, err := a.f.Images.Ensure(a.f.login(ctx), a.work.env.lock, func(msg string) { a.emit(Event{Type: "progress", Message: msg}) })
	if err != nil {
		return err
	}
	if err := a.f.Images.Compile(ctx, view.Python.Path, a.f.SDK); err != nil {
		return err
	}
	py := &interpreter{attempt: a, view: view, inputs: filepath.Join(scratch, "in")}
	if py.template, err = a.template(view); err != nil {
		return err
	}
	if err := os.Mkdir(py.inputs, 0o700); err != nil {
		return fmt.Errorf("make scratch folder: %w", err)
	}
	for n := 0; len(invs) > 0; n++ {
		part, rest := invs, []*invocation(nil)
		if py.alone() {
			part, rest = invs[:1], invs[1:]
		}
		own := filepath.Join(scratch, strconv.Itoa(n))
		got, err := py.run(ctx, own, part)
		if err != nil {
			return err
		}
		invs = nil
		for _, inv := range part {
			switch p := got[inv.id]; {
			case p.waits:
				invs = append(invs, inv)
			case !p.ended:
				a.taken(ctx, inv, p)
			}
		}
		invs = append(invs, rest...)
		if err := os.RemoveAll(own); err != nil {
			return fmt.Errorf("remove scratch folder: %w", err)
		}
	}
	return nil
}

// taken makes an item's result durable while the attempt goes on. What has ended counts, also when the others are canceled.
func (a *attempt) taken(ctx context.Context, inv *invocation, p *produced) {
	a.done[inv.id] = a.takeOver(context.WithoutCancel(ctx), inv, p)
	a.ended()
}

// interpreter runs items of one attempt.
type interpreter struct {
	*attempt
	view     image.View
	template *runtime.Template
	inputs   string // folder of the inputs that all items share
}

// alone says that each item has a sandbox of its own.
func (py *interpreter) alone() bool { return py.work.node.Options.Isolate == manifest.IsolateItem }

// run runs items in one sandbox: the module is imported once, each item is a fork of it. A single one is no fork, where it
// need not be: some libraries do not survive one.
func (py *interpreter) run(ctx context.Context, own string, invs []*invocation) (map[string]*produced, error) {
	if err := os.Mkdir(own, 0o700); err != nil {
		return nil, fmt.Errorf("make scratch folder: %w", err)
	}
	limits, err := limitsOf(py.work.node.Function)
	if err != nil {
		return nil, err
	}
	if len(invs) > 1 { // for the module and each item; the clock sees to it that none has more than its own
		limits.Time *= time.Duration(len(invs) + 1)
	}
	b, _, err := py.openBox(ctx, own, limits, []runtime.Mount{{Name: "inputs", Source: py.inputs}}, py.template)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	all := inputsOf{f: py.f, scratch: py.inputs, inside: b.Path("inputs")}
	shared, err := all.shared(ctx, py.work, b.Path("project"))
	if err != nil {
		return nil, err
	}
	in := inputsOf{f: py.f, scratch: own, inside: b.Path("scratch")}
	pc := py.pyContext(b)
	got := map[string]*produced{}
	for i, inv := range invs {
		it, p, err := py.pyItem(ctx, b, in, i, inv)
		if err != nil {
			return nil, err
		}
		it.Inputs = append(it.Inputs, shared...)
		pc.Items = append(pc.Items, it)
		got[inv.id] = p
	}
	if len(invs) == 1 && (invs[0].id == "" || py.alone()) {
		pc.pyItem, pc.Items = &pc.Items[0], nil
	}
	if err := writeJSON(filepath.Join(b.HostHome(), ".tarn-context.json"), pc); err != nil {
		return nil, err
	}
	env := pythonEnv(b.Home(), py.view, b.Path)
	argv := append([]string{py.view.Python.Path}, append(interpreterFlags, "tarn._runner")...)
	return got, py.execute(ctx, b, argv, env, got, func(m message) {
		i := slices.IndexFunc(invs, func(inv *invocation) bool { return inv.id == m.Item })
		if p := got[m.Item]; i >= 0 && p.err == nil && !p.ended {
			p.usage, p.ended = m.Usage, true
			py.taken(ctx, invs[i], p)
		}
	})
}

var errItemTime = errors.New("an item's time limit")

// clock ends a context when one of several items takes longer than it may. A single one has the limit of its sandbox.
type clock struct {
	limit  time.Duration
	got    map[string]*produced
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

func (a *attempt) startClock(ctx context.Context, got map[string]*produced) (context.Context, *clock) {
	c := &clock{got: got}
	ctx, c.cancel = context.WithCancelCause(ctx)
	if len(got) > 1 {
		c.limit = time.Duration(a.work.node.Options.Timeout * float64(time.Second))
	}
	return ctx, c
}

// start is called when the interpreter begins, with no item, and when an item does. Whoever says so twice is not believed.
func (c *clock) start(item string) {
	p := c.got[item]
	switch {
	case p != nil && p.began, p == nil && c.timer != nil:
		return
	case p != nil:
		p.began = true
	}
	if c.limit > 0 {
		if c.timer != nil {
			c.timer.Stop()
		}
		c.timer = time.AfterFunc(c.limit, func() { c.cancel(errItemTime) })
	}
}

func (c *clock) stop() {
	if c.timer != nil {
		c.timer.Stop()
	}
	c.cancel(nil)
}

// settle gives every item that reported neither result nor error the reason why, or has it wait for another interpreter: if
// this one ended because of another item.
func (a *attempt) settle(exit runtime.Exit, got map[string]*produced, closed bool) {
	usage := memo.Usage{WallSeconds: exit.Usage.Wall.Seconds(), CPUSeconds: exit.Usage.CPU.Seconds(), PeakBytes: exit.Usage.PeakMemoryBytes}
	begun := 0
	for _, p := range got {
		if p.began || p.ended || p.err != nil {
			begun++
		}
	}
	fn := a.work.node.Function
	for id, p := range got {
		switch {
		case p.ended:
			continue
		case begun > 0 && !p.began && p.err == nil:
			p.waits = true
			continue
		case begun == 0 && len(got) > 1:
			id = "" // it is no item's fault
		}
		p.usage = memo.Usage{WallSeconds: usage.WallSeconds / float64(len(got)), CPUSeconds: usage.CPUSeconds / float64(len(got)), PeakBytes: usage.PeakBytes}
		if killedAlone(exit, p) || p.err == nil && !complete(fn, p) {
			p.err = a.whyEnded(exit, id, closed)
		}
	}
}

// killedAlone says that the kernel enforced the limit of memory before the sandbox was seen to be above it: then it killed the
// item, and the interpreter went on.
func killedAlone(exit runtime.Exit, p *produced) bool {
	return exit.Reason == runtime.OutOfMemory && p.err != nil && errdef.As(p.err).Reason == "runner.process_ended" && strings.Contains(p.err.Error(), "signal 9 ")
}

// whyEnded says why an interpreter or program ended while an item was under way; nil if it ended well.
func (a *attempt) whyEnded(exit runtime.Exit, item string, closed bool) error {
	fn := a.work.node.Function
	at := ""
	if item != "" {
		at = ", at item " + item
	}
	switch exit.Reason {
	case runtime.OutOfMemory:
		peak := exit.Usage.PeakMemoryBytes
		return errMemory.Errorf("%s used %s, its limit%s. %s%s.", fn.Name, bytesText(peak), at, asks(fn, "memory", peak), batchHint(fn))
	case runtime.TimedOut:
		return errTimeout.Errorf("%s ran longer than %s%s. timeout=... allows more.", fn.Name, seconds(fn.Options.Timeout), at)
	case runtime.TooManyProcesses:
		return errStorm.Errorf("%s ran more than %d processes and threads at once%s.", fn.Name, runtime.DefaultPIDs, at)
	case runtime.DiskFull:
		wrote := exit.Usage.DiskBytes
		return errDisk.Errorf("%s wrote %s, more than its limit%s. %s.", fn.Name, bytesText(wrote), at, asks(fn, "disk", wrote))
	case runtime.NoRoom:
		return noRoom(fn, exit.Usage.DiskBytes, at)
	case runtime.Signaled:
		return errKilled.Errorf("%s was killed by signal %d%s", fn.Name, exit.Signal, at)
	case runtime.Canceled:
		return context.Canceled
	case runtime.Exited:
		if exit.Code != 0 {
			return ErrUserCode.Errorf("%s ended with exit status %d%s", fn.Name, exit.Code, at)
		}
		if !closed && fn.Language == manifest.Python {
			return ErrUserCode.Errorf("%s ended before it returned: something called os._exit(0)%s", fn.Name, at)
		}
		return nil
	default:
		return errRunner.Errorf("%s ended as %q", fn.Name, exit.Reason)
	}
}

// noRoom is for who wrote most when the disk was nearly full.
func noRoom(fn *manifest.Function, wrote int64, at string) error {
	return errDisk.Errorf("%s was ended%s: the disk is nearly full, and of all that runs it had written most, %s.", fn.Name, at, bytesText(wrote)).
		WithNext("free some of the disk; " + asks(fn, "disk", wrote) + " has it wait until others leave as much")
}

// asks is how a function asks for half as much again of a resource as it had, or more.
func asks(fn *manifest.Function, resource string, had int64) string {
	if fn.Language == manifest.Python {
		return fmt.Sprintf("resources=tarn.Resources(%s=%q)", resource, roomFor(had))
	}
	return fmt.Sprintf("tarn: %s = %q", resource, roomFor(had))
}

// roomFor is a limit of memory or disk as people write one, half as much again as peak or more.
func roomFor(peak int64) string {
	limit := int64(64 << 20)
	for limit < peak+peak/2 {
		limit *= 2
	}
	return strings.NewReplacer(" ", "", ".0", "").Replace(bytesText(limit))
}

func batchHint(fn *manifest.Function) string {
	for _, in := range fn.Inputs {
		if in.Batch > 1 {
			return fmt.Sprintf(" or batch=%d", in.Batch/2)
		}
	}
	return ""
}

// complete reports whether an item reported all that its function makes.
func complete(fn *manifest.Function, p *produced) bool {
	if fn.Kind == manifest.Check {
		return p.check != nil
	}
	for _, out := range fn.Outputs {
		if p.tables[out] == "" {
			return false
		}
	}
	return len(fn.Outputs) > 0
}
