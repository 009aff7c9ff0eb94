// Command engines loads what lowbit writes in the engines that people run, and
// holds lowbit's table of engines to what happens.
//
//	go run ./internal/cmd/engines [-only NAME] [-cache DIR] [-o FILE]
//
// It makes virtual environments from the pins in engines/, quantizes the
// models in testdata in every format that an engine reads, and compares the
// engine's logits with lowbit's, or its answers where it shows none. It also has other tools quantize the embedded model,
// and reads that. Run it in the root of the repository. It ends
// with 1 where an engine does anything else than the table says.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	only := flag.String("only", "", "checks to run, separated by commas; peers for all that read other tools' files (default: all)")
	cache := flag.String("cache", "", "folder for virtual environments (default: in the user's cache)")
	out := flag.String("o", "", "write the results to this file: what is there from checks that did not run stays")
	python := flag.String("python", "", "make this environment, print the path of its Python, and do nothing else")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *only, *cache, *out, *python); err != nil {
		fmt.Fprintln(os.Stderr, "engines:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only, cache, out, python string) error {
	if _, err := os.Stat("engines/common.py"); err != nil {
		return fmt.Errorf("run it in the root of the repository: %w", err)
	}
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return err
		}
		cache = filepath.Join(dir, "lowbit-tests", "engines")
	}
	if python != "" {
		path, err := environment(ctx, cache, python)
		if err == nil {
			fmt.Println(path)
		}
		return err
	}
	checks, peers, err := chosen(only)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "lowbit-engines-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	b := &bench{cache: cache, work: work, files: map[kind]*written{}}
	var failures []string
	for _, c := range checks {
		wrong, err := b.run(ctx, c)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		failures = append(failures, wrong...)
	}
	for _, p := range peers {
		wrong, err := b.peer(ctx, p)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		failures = append(failures, wrong...)
	}
	if out != "" {
		if err := save(out, b.results); err != nil {
			return err
		}
	}
	fmt.Printf("\n%d passed, %d failed, %d skipped\n", len(b.results)+b.peers-len(failures), len(failures), b.skipped)
	if len(failures) > 0 {
		return errors.New("not as it should be:\n" + strings.Join(failures, "\n"))
	}
	return nil
}
