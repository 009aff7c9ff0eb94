// Command release makes what is published of a commit: for every platform an archive with the
// static binary, man pages, completions and licences, and its SBOM; and the checksums of all.
//
//	go run ./internal/cmd/release -ref v1.0.0 -o dist
//
// It builds in a clone of its own, so that what is not committed has no part in it. The same commit gives the
// same bytes with the same version of Go, wherever it is built: paths are trimmed, files have the commit's
// time, and the version is the one Go takes from the tags.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

func main() {
	ref := flag.String("ref", "HEAD", "commit or tag to release")
	out := flag.String("o", "dist", "folder to write; must not exist")
	targets := flag.String("targets", "linux/amd64,linux/arm64,darwin/amd64,darwin/arm64,windows/amd64,windows/arm64", "platforms")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *ref, *out, strings.Split(*targets, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// release is what is made once for all platforms.
type release struct {
	source  string // the clone
	scratch string
	version string
	commit  time.Time
	common  []entry // of every archive
}

func run(ctx context.Context, ref, out string, targets []string) error {
	if _, err := os.Stat(out); err == nil {
		return fmt.Errorf("%s is there already", out)
	}
	scratch, err := os.MkdirTemp("", "lowbit-release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	r, err := prepare(ctx, ref, scratch)
	if err != nil {
		return err
	}
	// Under its name only when it is complete.
	partial := out + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return err
	}
	if err := os.MkdirAll(partial, 0o777); err != nil {
		return err
	}
	for _, target := range targets {
		if err := r.target(ctx, partial, target); err != nil {
			return fmt.Errorf("%s: %w", target, err)
		}
	}
	if err := checksums(partial); err != nil {
		return err
	}
	return os.Rename(partial, out)
}

// prepare clones the commit and makes what does not depend on the platform.
func prepare(ctx context.Context, ref, scratch string) (*release, error) {
	r := &release{source: filepath.Join(scratch, "source"), scratch: scratch}
	commit, err := output(ctx, ".", nil, "git", "rev-parse", "--verify", ref+"^{commit}")
	if err != nil {
		return nil, err
	}
	root, err := output(ctx, ".", nil, "git", "rev-parse", "--show-toplevel")
	if err != nil {
		return nil, err
	}
	if _, err := output(ctx, ".", nil, "git", "clone", "--quiet", "--no-checkout", root, r.source); err != nil {
		return nil, err
	}
	if _, err := output(ctx, r.source, nil, "git", "checkout", "--quiet", "--detach", commit); err != nil {
		return nil, err
	}
	seconds, err := output(ctx, r.source, nil, "git", "show", "-s", "--format=%ct", commit)
	if err != nil {
		return nil, err
	}
	unix, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("time of the commit: %w", err)
	}
	r.commit = time.Unix(unix, 0).UTC()
	binary, err := r.build(ctx, runtime.GOOS, runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	if r.version = info.Main.Version; strings.Contains(r.version, "+dirty") || !strings.HasPrefix(r.version, "v") {
		return nil, fmt.Errorf("the build says it is version %q, expected one from the tags", r.version)
	}
	told, err := output(ctx, r.source, nil, binary, "version")
	if err != nil || !strings.HasPrefix(told, "lowbit "+r.version+" ") {
		return nil, fmt.Errorf("the binary says %q, expected version %s: %w", told, r.version, err)
	}
	r.common, err = r.documents(ctx, binary)
	return r, err
}

// build compiles the command and returns its path.
func (r *release) build(ctx context.Context, goos, goarch string) (string, error) {
	binary := filepath.Join(r.scratch, goos+"_"+goarch, "lowbit")
	if goos == "windows" {
		binary += ".exe"
	}
	_, err := output(ctx, r.source, platform(goos, goarch),
		"go", "build", "-mod=readonly", "-trimpath", "-buildvcs=true", "-ldflags=-s -w", "-o", binary, "./cmd/lowbit")
	return binary, err
}

// platform is the environment of a build: what would change its bytes is set.
func platform(goos, goarch string) []string {
	return []string{"CGO_ENABLED=0", "GOOS=" + goos, "GOARCH=" + goarch, "GOAMD64=v1", "GOARM64=v8.0", "GOEXPERIMENT=", "GOWORK=off", "GOFIPS140=off"}
}

// target writes the archive and the SBOM of a platform.
func (r *release) target(ctx context.Context, out, target string) error {
	goos, goarch, ok := strings.Cut(target, "/")
	if !ok {
		return fmt.Errorf("want OS/ARCH")
	}
	binary, err := r.build(ctx, goos, goarch)
	if err != nil {
		return err
	}
	if goos == "linux" {
		if err := static(binary); err != nil {
			return err
		}
	}
	data, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	licences, err := r.licences(ctx, goos, goarch)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("lowbit_%s_%s_%s", r.version, goos, goarch)
	entries := append([]entry{{filepath.Base(binary), 0o755, data}, {"LICENSES-OF-LIBRARIES.txt", 0o644, licences}}, r.common...)
	pack, ending := tarball, ".tar.gz"
	if goos == "windows" {
		pack, ending = zipped, ".zip"
	}
	archive, err := pack(name, entries, r.commit)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, name+ending), archive, 0o666); err != nil {
		return err
	}
	bom, err := r.sbom(ctx, binary)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, name+".cdx.json"), bom, 0o666)
}

// static refuses a binary for Linux that needs a loader or a library.
func static(binary string) error {
	f, err := elf.Open(binary)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is linked dynamically", binary)
		}
	}
	libraries, err := f.ImportedLibraries()
	if err == nil && len(libraries) > 0 {
		return fmt.Errorf("%s needs %v", binary, libraries)
	}
	return err
}

// checksums writes SHA256SUMS of all files in a folder, as sha256sum -c reads it.
func checksums(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var sums bytes.Buffer
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(data), f.Name())
	}
	return os.WriteFile(filepath.Join(dir, "SHA256SUMS"), sums.Bytes(), 0o666)
}

// output runs a program and returns what it prints, without the last line's end.
func output(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, stderr.String())
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}
