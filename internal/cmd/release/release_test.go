package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var builds = flag.String("release", "", "platforms to release twice, from two folders, without a build shared")

// TestReproducible makes a release of HEAD here and from a clone elsewhere that shares no build: both have
// the same bytes, and the binary for this machine runs with nothing around it.
func TestReproducible(t *testing.T) {
	if *builds == "" {
		t.Skip("runs with -release PLATFORMS")
	}
	targets := strings.Split(*builds, ",")
	root, err := output(t.Context(), ".", nil, "git", "rev-parse", "--show-toplevel")
	require.NoError(t, err)
	clone := filepath.Join(t.TempDir(), "a folder", "elsewhere")
	_, err = output(t.Context(), ".", nil, "git", "clone", "--quiet", root, clone)
	require.NoError(t, err)
	one, two := filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "two")
	require.NoError(t, run(t.Context(), "HEAD", one, targets))
	t.Setenv("GOCACHE", t.TempDir())
	t.Chdir(clone)
	require.NoError(t, run(t.Context(), "HEAD", two, targets))

	files, err := os.ReadDir(one)
	require.NoError(t, err)
	require.Len(t, files, 2*len(targets)+1)
	for _, f := range files {
		a, err := os.ReadFile(filepath.Join(one, f.Name()))
		require.NoError(t, err)
		b, err := os.ReadFile(filepath.Join(two, f.Name()))
		require.NoError(t, err)
		require.True(t, bytes.Equal(a, b), "%s differs between two builds", f.Name())
		if strings.Contains(f.Name(), "_linux_amd64.tar.gz") {
			runs(t, a)
		}
		t.Logf("%s: %d bytes, twice the same", f.Name(), len(a))
	}
}

// runs unpacks an archive and starts what is in it without any environment.
func runs(t *testing.T, archive []byte) {
	t.Helper()
	files := unpack(t, archive)
	i := slices.IndexFunc(files, func(e entry) bool { return strings.HasSuffix(e.name, "/lowbit") })
	require.GreaterOrEqual(t, i, 0)
	binary := filepath.Join(t.TempDir(), "lowbit")
	require.NoError(t, os.WriteFile(binary, files[i].data, 0o755))
	require.NoError(t, static(binary))
	cmd := exec.Command(binary, "version")
	cmd.Env = []string{}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Regexp(t, `^lowbit v\S+ [0-9a-f]{40} go`, string(out))
}

func unpack(t *testing.T, archive []byte) []entry {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(archive))
	require.NoError(t, err)
	r := tar.NewReader(z)
	var files []entry
	for {
		h, err := r.Next()
		if err == io.EOF {
			return files
		}
		require.NoError(t, err)
		data, err := io.ReadAll(r)
		require.NoError(t, err)
		files = append(files, entry{h.Name, h.FileInfo().Mode(), data})
	}
}

// TestArchives: the order in which files come does not matter, times and modes are those given.
func TestArchives(t *testing.T) {
	at := time.Unix(1_700_000_000, 0).UTC()
	files := []entry{{"lowbit", 0o755, []byte("binary")}, {"man/man1/lowbit.1", 0o644, []byte("page")}, {"LICENSE", 0o644, []byte("MIT")}}
	backward := slices.Clone(files)
	slices.Reverse(backward)
	for _, pack := range []func(string, []entry, time.Time) ([]byte, error){tarball, zipped} {
		a, err := pack("lowbit_v1", files, at)
		require.NoError(t, err)
		b, err := pack("lowbit_v1", backward, at)
		require.NoError(t, err)
		require.Equal(t, a, b)
	}
	a, err := tarball("lowbit_v1", files, at)
	require.NoError(t, err)
	require.Equal(t, []entry{{"lowbit_v1/LICENSE", 0o644, []byte("MIT")}, {"lowbit_v1/lowbit", 0o755, []byte("binary")}, {"lowbit_v1/man/man1/lowbit.1", 0o644, []byte("page")}}, unpack(t, a))
	b, err := zipped("lowbit_v1", files, at)
	require.NoError(t, err)
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	require.Equal(t, "lowbit_v1/lowbit", z.File[1].Name)
	require.EqualValues(t, 0o755, z.File[1].Mode())
	require.True(t, at.Equal(z.File[1].Modified))
}

func TestTimeless(t *testing.T) {
	const bom = `{"bomFormat":"CycloneDX","metadata":{"timestamp":"%s","tools":{"components":[]},"component":{"name":"lowbit"}},"components":[{"name":"cobra"}]}`
	a, err := timeless([]byte(strings.Replace(bom, "%s", "2026-01-01", 1)))
	require.NoError(t, err)
	b, err := timeless([]byte(strings.Replace(bom, "%s", "2026-02-02", 1)))
	require.NoError(t, err)
	require.Equal(t, string(a), string(b))
	require.Contains(t, string(a), `"name": "cobra"`)
	_, err = timeless([]byte(`{}`))
	require.ErrorContains(t, err, "no metadata")
}

func TestChecksums(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "b"), []byte("abc"), 0o666))
	require.NoError(t, checksums(dir))
	sums, err := os.ReadFile(filepath.Join(dir, "SHA256SUMS"))
	require.NoError(t, err)
	require.Equal(t, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  b\n", string(sums)) // FIPS 180's example
}

// TestLicenceFiles: a library without a licence is no part of a release.
func TestLicenceFiles(t *testing.T) {
	dir := t.TempDir()
	_, err := licenceFiles(dir)
	require.ErrorContains(t, err, "no licence")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "LICENSE.md"), []byte("MIT"), 0o666))
	texts, err := licenceFiles(dir)
	require.NoError(t, err)
	require.Equal(t, [][]byte{[]byte("MIT")}, texts)
}
