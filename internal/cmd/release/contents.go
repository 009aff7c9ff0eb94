package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// cyclonedx writes SBOMs of Go binaries.
const cyclonedx = "github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.9.0"

// documents are the licence, the pages one begins with, man pages and completions.
func (r *release) documents(ctx context.Context, binary string) ([]entry, error) {
	var entries []entry
	for _, name := range []string{"LICENSE", "README.md", "CHANGELOG.md"} {
		data, err := os.ReadFile(filepath.Join(r.source, name))
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry{name, 0o644, data})
	}
	man := filepath.Join(r.scratch, "man")
	if _, err := output(ctx, r.source, nil, binary, "manual", man); err != nil {
		return nil, err
	}
	pages, err := os.ReadDir(man)
	if err != nil {
		return nil, err
	}
	for _, p := range pages {
		data, err := os.ReadFile(filepath.Join(man, p.Name()))
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry{"man/man1/" + p.Name(), 0o644, data})
	}
	for _, shell := range []struct{ name, file string }{
		{"bash", "lowbit.bash"}, {"zsh", "_lowbit"}, {"fish", "lowbit.fish"}, {"powershell", "lowbit.ps1"},
	} {
		text, err := output(ctx, r.source, nil, binary, "completion", shell.name)
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry{"completions/" + shell.file, 0o644, []byte(text + "\n")})
	}
	return entries, nil
}

// licences are those of the libraries, and of Go, that the binary for a platform holds.
func (r *release) licences(ctx context.Context, goos, goarch string) ([]byte, error) {
	list, err := output(ctx, r.source, platform(goos, goarch), "go", "list", "-deps",
		"-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}\t{{.Dir}}{{end}}{{end}}", "./cmd/lowbit")
	if err != nil {
		return nil, err
	}
	goroot, err := output(ctx, r.source, nil, "go", "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	modules := append(strings.Split(list, "\n"), "Go\t"+goroot)
	slices.Sort(modules)
	var b bytes.Buffer
	for _, m := range slices.Compact(modules) {
		name, dir, ok := strings.Cut(m, "\t")
		if !ok { // the standard library, or the module itself
			continue
		}
		texts, err := licenceFiles(dir)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for _, text := range texts {
			fmt.Fprintf(&b, "==== %s\n\n%s\n\n", name, bytes.TrimSpace(text))
		}
	}
	return b.Bytes(), nil
}

// licenceFiles are the texts of the files in a module that say on what terms it may be used.
func licenceFiles(dir string) ([][]byte, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var texts [][]byte
	for _, f := range files {
		name := strings.ToUpper(f.Name())
		if f.IsDir() || !strings.HasPrefix(name, "LICEN") && !strings.HasPrefix(name, "COPYING") && !strings.HasPrefix(name, "NOTICE") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return nil, err
		}
		texts = append(texts, text)
	}
	if len(texts) == 0 {
		return nil, fmt.Errorf("no licence in %s", dir)
	}
	return texts, nil
}

// sbom is the bill of materials of a binary, without what depends on when and where it is made.
func (r *release) sbom(ctx context.Context, binary string) ([]byte, error) {
	text, err := output(ctx, r.scratch, []string{"GOFLAGS="}, "go", "run", cyclonedx, "bin", "-json", "-noserial", "-std", "-version", r.version, binary)
	if err != nil {
		return nil, err
	}
	return timeless([]byte(text))
}

// timeless takes the time, and the tool's own checksums, out of an SBOM.
func timeless(text []byte) ([]byte, error) {
	var bom map[string]any
	if err := json.Unmarshal(text, &bom); err != nil {
		return nil, fmt.Errorf("SBOM: %w", err)
	}
	metadata, ok := bom["metadata"].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("SBOM: no metadata")
	}
	delete(metadata, "timestamp")
	delete(metadata, "tools")
	out, err := json.MarshalIndent(bom, "", "  ")
	return append(out, '\n'), err
}
