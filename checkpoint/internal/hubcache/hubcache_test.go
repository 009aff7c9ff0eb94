package hubcache

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	commitA = "1111111111111111111111111111111111111111"
	commitB = "2222222222222222222222222222222222222222"
)

// cache lays out a cache with one model in two snapshots, files as links.
func cache(t *testing.T) (root, model string) {
	root = t.TempDir()
	model = filepath.Join(root, "models--some-org--a.model")
	for _, dir := range []string{"blobs", "refs", "snapshots/" + commitA, "snapshots/" + commitB} {
		require.NoError(t, os.MkdirAll(filepath.Join(model, dir), 0o755))
	}
	write(t, filepath.Join(model, "blobs", "abc"), "{}")
	for _, c := range []string{commitA, commitB} {
		require.NoError(t, os.Symlink("../../blobs/abc", filepath.Join(model, "snapshots", c, "config.json")))
	}
	write(t, filepath.Join(model, "refs", "main"), commitA)
	require.NoError(t, os.MkdirAll(filepath.Join(model, "refs", "pr"), 0o755))
	write(t, filepath.Join(model, "refs", "pr", "1"), commitB+"\n")
	now := time.Now()
	require.NoError(t, os.Chtimes(filepath.Join(model, "snapshots", commitA), now, now.Add(-time.Hour)))
	require.NoError(t, os.Chtimes(filepath.Join(model, "snapshots", commitB), now, now))
	return root, model
}

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
}

func TestDir(t *testing.T) {
	env := map[string]string{"HOME": "/h"}
	get := func(k string) string { return env[k] }
	require.Equal(t, filepath.FromSlash("/h/.cache/huggingface/hub"), Dir(get))
	env["XDG_CACHE_HOME"] = "/x"
	require.Equal(t, filepath.FromSlash("/x/huggingface/hub"), Dir(get))
	env["HF_HOME"] = "~/hf"
	require.Equal(t, filepath.FromSlash("/h/hf/hub"), Dir(get))
	env["HUGGINGFACE_HUB_CACHE"] = "/old"
	require.Equal(t, "/old", Dir(get))
	env["HF_HUB_CACHE"] = "/new"
	require.Equal(t, "/new", Dir(get))
	require.Empty(t, Dir(func(string) string { return "" }))
}

func TestFind(t *testing.T) {
	root, model := cache(t)
	a, b := filepath.Join(model, "snapshots", commitA), filepath.Join(model, "snapshots", commitB)
	for revision, want := range map[string]string{"": a, "main": a, commitA: a, commitB: b, "pr/1": b} {
		got, err := Find(root, "some-org/a.model", revision)
		require.NoError(t, err, revision)
		require.Equal(t, want, got, revision)
	}
	for _, bad := range []struct{ name, revision string }{
		{"some-org/other", ""}, {"../x", ""}, {"a/b/c", ""}, {"", ""}, {"some-org/a.model", "v2"},
		{"some-org/a.model", "../refs"}, {"some-org/a.model", "/etc"},
	} {
		_, err := Find(root, bad.name, bad.revision)
		require.ErrorIs(t, err, ErrNotCached, "%v", bad)
	}
	_, err := Find("", "some-org/a.model", "")
	require.ErrorIs(t, err, ErrNotCached)
}

func TestResolve(t *testing.T) {
	_, model := cache(t)
	a, b := filepath.Join(model, "snapshots", commitA), filepath.Join(model, "snapshots", commitB)
	for _, path := range []string{model, model + "/", filepath.Join(model, "snapshots")} {
		got, ok, err := Resolve(path)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, a, got)
	}
	for _, path := range []string{a, filepath.Dir(model), filepath.Join(model, "none")} {
		_, ok, err := Resolve(path)
		require.NoError(t, err)
		require.False(t, ok, path)
	}

	require.NoError(t, os.Remove(filepath.Join(model, "refs", "main")))
	got, ok, err := Resolve(model)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, b, got, "without refs/main the snapshot made last")

	write(t, filepath.Join(model, "refs", "main"), "../../../etc")
	_, _, err = Resolve(model)
	require.ErrorContains(t, err, "is no commit")

	require.NoError(t, os.RemoveAll(filepath.Join(model, "snapshots", commitB)))
	write(t, filepath.Join(model, "refs", "main"), commitB)
	got, ok, err = Resolve(model)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, a, got, "a ref to a snapshot that was deleted does not count")

	require.NoError(t, os.RemoveAll(a))
	_, _, err = Resolve(model)
	require.ErrorIs(t, err, ErrNotCached)
}

func TestDangling(t *testing.T) {
	_, model := cache(t)
	dir := filepath.Join(model, "snapshots", commitA)
	names, err := Dangling(dir)
	require.NoError(t, err)
	require.Empty(t, names)
	require.NoError(t, os.Symlink("../../blobs/none", filepath.Join(dir, "model.safetensors")))
	names, err = Dangling(dir)
	require.NoError(t, err)
	require.Equal(t, []string{"model.safetensors"}, names)
}
