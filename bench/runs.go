package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// noop is a run in which nothing is to be done, in a folder full of other files.
func noop(ctx context.Context, b *bench) error {
	const assets = 100
	others := b.size(50_000, 10_000)
	sources := map[string]string{}
	for i := range assets {
		sources[fmt.Sprintf("a%03d.sql", i)] = sqlAsset(i, i-10)
	}
	for i := range others {
		sources[fmt.Sprintf("data/%03d/%05d.txt", i%500, i)] = "x"
	}
	dir, err := b.project("noop", sources)
	if err != nil {
		return err
	}
	first, err := best(1, func() error { _, err := b.tarn(ctx, dir, "run"); return err })
	if err != nil {
		return err
	}
	again, err := best(b.size(15, 8), func() error { _, err := b.tarn(ctx, dir, "run"); return err })
	if err != nil {
		return err
	}
	find, err := best(b.size(15, 8), func() error { _, err := b.command(ctx, dir, "find", ".", "-type", "f"); return err })
	if err != nil {
		return err
	}
	peer := fmt.Sprintf("find over the folder (%s ms)", number(milliseconds(find)))
	what := fmt.Sprintf("no-op run, %d SQL assets, %d files", assets, others)
	row{what, milliseconds(again), "ms", atMost(150), peer, float64(again) / float64(find)}.print()
	row{"  its first run", milliseconds(first), "ms", nil, "the no-op", float64(first) / float64(again)}.print()
	return nil
}

// sqlAsset is asset number i, which reads the one called parent, if there is that one.
func sqlAsset(i, parent int) string {
	if parent < 0 {
		return fmt.Sprintf("SELECT %d AS n\n", i)
	}
	return fmt.Sprintf("SELECT n + %d AS n FROM a%03d\n", i, parent)
}

// chain runs assets that do next to nothing, one after the other: what a step costs. The peer does what
// each step must do at least: start a process, with its libraries.
func chain(ctx context.Context, b *bench) error {
	n := b.size(100, 20)
	sql := map[string]string{}
	for i := range n {
		sql[fmt.Sprintf("a%03d.sql", i)] = sqlAsset(i, i-1)
	}
	version := func(string) (string, []string, error) { return "tarn version", []string{b.bin, "version"}, nil }
	if err := b.chainOf(ctx, "sql", "SQL", n, sql, version, func(round int) map[string]string {
		return map[string]string{"a000.sql": fmt.Sprintf("SELECT %d AS n\n", -round)}
	}); err != nil {
		return err
	}
	python := func(start int) map[string]string {
		var text strings.Builder
		text.WriteString("import tarn\n")
		for i := range n {
			if i == 0 {
				fmt.Fprintf(&text, "\n\n@tarn.asset\ndef a000() -> list[dict]:\n    return [{\"n\": %d}]\n", start)
				continue
			}
			fmt.Fprintf(&text, "\n\n@tarn.asset\ndef a%03d(a%03d: list[dict]) -> list[dict]:\n    return a%03d\n", i, i-1, i-1)
		}
		return map[string]string{"pipeline.py": text.String()}
	}
	pyarrow := func(dir string) (string, []string, error) {
		python, err := b.interpreter(ctx, dir)
		return "python -c 'import pyarrow'", []string{python, "-c", "import pyarrow"}, err
	}
	return b.chainOf(ctx, "python", "Python", n, python(0), pyarrow, python)
}

// chainOf runs a chain of n steps, changing its first one each time, so that every step runs.
func (b *bench) chainOf(ctx context.Context, name, kind string, n int, sources map[string]string,
	peer func(dir string) (what string, command []string, err error), change func(round int) map[string]string,
) error {
	dir, err := b.project(name, sources)
	if err != nil {
		return err
	}
	if _, err := b.tarn(ctx, dir, "run"); err != nil { // makes the environment, too
		return err
	}
	what, command, err := peer(dir)
	if err != nil {
		return err
	}
	var total, bare time.Duration
	for round := range b.size(3, 2) {
		for file, text := range change(round + 1) {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
				return err
			}
		}
		d, err := best(1, func() error { _, err := b.tarn(ctx, dir, "run"); return err })
		if err != nil {
			return err
		}
		total = least(total, d)
		if d, err = best(5, func() error { _, err := b.command(ctx, dir, command[0], command[1:]...); return err }); err != nil {
			return err
		}
		bare = least(bare, d)
	}
	step := total / time.Duration(n)
	what = fmt.Sprintf("%s (%s ms)", what, number(milliseconds(bare)))
	row{fmt.Sprintf("chain of %d %s assets, each step", n, kind), milliseconds(step), "ms", atMost(15), what, float64(step) / float64(bare)}.print()
	return nil
}
