//go:build fault

package fault

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Enabled tells whether points can be programmed.
const Enabled = true

type term struct {
	count  int // hits left; -1 for ever
	action string
	arg    string
}

var points struct {
	sync.Mutex
	load     sync.Once
	programs map[string][]term
}

// Point does what the point's program says; nothing if it has none.
func Point(name string) error {
	points.load.Do(loadEnv)
	points.Lock()
	t := next(name)
	points.Unlock()
	return t.do(name)
}

// Set programs one point of this process; an empty program clears it.
func Set(name, program string) error {
	points.load.Do(loadEnv)
	terms, err := parse(program)
	if err != nil {
		return err
	}
	points.Lock()
	defer points.Unlock()
	points.programs[name] = terms
	return nil
}

// loadEnv ends the process on a program it cannot read: a crash test whose fault never fires would pass
// for the wrong reason.
func loadEnv() {
	points.programs = map[string][]term{}
	for entry := range strings.SplitSeq(os.Getenv("TARN_FAULT"), ";") {
		if strings.TrimSpace(entry) == "" {
			continue
		}
		name, program, ok := strings.Cut(entry, "=")
		terms, err := parse(program)
		if !ok || err != nil {
			fmt.Fprintf(os.Stderr, "TARN_FAULT: cannot read %q: %v\n", entry, err)
			os.Exit(125)
		}
		points.programs[strings.TrimSpace(name)] = terms
	}
}

func next(name string) term {
	terms := points.programs[name]
	for len(terms) > 0 {
		if terms[0].count != 0 {
			if terms[0].count > 0 {
				terms[0].count--
			}
			return terms[0]
		}
		terms = terms[1:]
		points.programs[name] = terms
	}
	return term{action: "off"}
}

func parse(program string) ([]term, error) {
	var terms []term
	if strings.TrimSpace(program) == "" {
		return nil, nil
	}
	for text := range strings.SplitSeq(program, "->") {
		t := term{count: -1, action: strings.TrimSpace(text)}
		if head, tail, ok := strings.Cut(t.action, "*"); ok {
			n, err := strconv.Atoi(head)
			if err != nil || n < 0 {
				return nil, fmt.Errorf("count %q in %q", head, text)
			}
			t.count, t.action = n, tail
		}
		if head, tail, ok := strings.Cut(t.action, "("); ok {
			arg, closed := strings.CutSuffix(tail, ")")
			if !closed {
				return nil, fmt.Errorf("no closing parenthesis in %q", text)
			}
			t.action, t.arg = head, arg
		}
		switch t.action {
		case "off", "kill", "pause", "count", "error", "panic":
		case "exit", "delay":
			if t.action == "exit" && t.arg == "" {
				t.arg = "1"
			}
			if n, err := strconv.Atoi(t.arg); err != nil || n < 0 {
				return nil, fmt.Errorf("number %q in %q", t.arg, text)
			}
		default:
			return nil, fmt.Errorf("unknown action %q", t.action)
		}
		terms = append(terms, t)
	}
	return terms, nil
}

func (t term) do(name string) error {
	switch t.action {
	case "error":
		return ErrInjected.Errorf("%s", t.arg)
	case "panic":
		panic("fault " + name + ": " + t.arg)
	case "exit":
		n, _ := strconv.Atoi(t.arg) // parse has seen it
		os.Exit(n)
	case "kill":
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			return err
		}
		select {} // the signal is on its way: nothing after the point may happen
	case "delay":
		ms, _ := strconv.Atoi(t.arg) // parse has seen it
		time.Sleep(time.Duration(ms) * time.Millisecond)
	case "pause":
		return pause(name)
	case "count":
		return count(name)
	}
	return nil
}

func count(name string) error {
	f, err := os.OpenFile(filepath.Join(os.Getenv("TARN_FAULT_DIR"), name), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte{'.'})
	return errors.Join(err, f.Close())
}

func pause(name string) error {
	path := filepath.Join(os.Getenv("TARN_FAULT_DIR"), name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	for {
		if _, err := os.Stat(path); os.IsNotExist(err) {
			return nil
		}
		time.Sleep(2 * time.Millisecond)
	}
}
