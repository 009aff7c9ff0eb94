package hub

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/hubtest"
)

const commit = "0123456789abcdef0123456789abcdef01234567"

// model is a repository: what is needed, and what is not.
func model() map[string][]byte {
	rng := rand.New(rand.NewPCG(1, 2))
	large := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	files := map[string][]byte{
		"config.json": []byte(`{"model_type": "llama"}`), "tokenizer.json": large(5000), "generation_config.json": []byte("{}"), "README.md": []byte("---\nlicense: mit\n---\n"),
		"LICENSE": []byte("MIT"), "chat_template.jinja": []byte("{{ messages }}"),
		"model.safetensors.index.json": []byte(`{"weight_map": {"a": "model-00001-of-00003.safetensors", "b": "model-00002-of-00003.safetensors", "c": "model-00003-of-00003.safetensors"}}`),
		"pytorch_model.bin":            large(3000), "consolidated.00.pth": large(3000), "original/params.json": []byte("{}"), "onnx/model.onnx": large(2000),
		"model.onnx": large(2000), "tf_model.h5": large(2000), "params.json": []byte("{}"), "picture.png": large(2000), ".gitattributes": []byte("x"), "empty.txt": {},
	}
	for i := range 3 {
		files[fmt.Sprintf("model-0000%d-of-00003.safetensors", i+1)] = large(200_000)
	}
	return files
}

var needed = []string{
	"LICENSE", "README.md", "chat_template.jinja", "config.json", "empty.txt", "generation_config.json", "model-00001-of-00003.safetensors",
	"model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors", "model.safetensors.index.json", "tokenizer.json",
}

// at is Options for a hub, with a cache of its own.
func at(t *testing.T, h *hubtest.Hub, more map[string]string) Options {
	env := map[string]string{"HF_HOME": t.TempDir(), "HF_ENDPOINT": h.URL}
	for k, v := range more {
		env[k] = v
	}
	return Options{Getenv: func(key string) string { return env[key] }, wait: time.Millisecond, stalled: 5 * time.Second}
}

func cacheOf(o Options) string { return filepath.Join(o.Getenv("HF_HOME"), "hub") }

// checkSnapshot compares a snapshot with what the hub has.
func checkSnapshot(t *testing.T, dir string, files map[string][]byte, want []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		require.True(t, bytes.Equal(files[e.Name()], data), e.Name())
		link, err := os.Readlink(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		require.Equal(t, filepath.Join("..", "..", "blobs"), filepath.Dir(link))
	}
	require.Equal(t, want, names)
	left, err := filepath.Glob(filepath.Join(dir, "..", "..", "blobs", "*"+incomplete))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestFetch(t *testing.T) {
	files := model()
	h := hubtest.New(t, "org/some.model", files)
	h.Slow = 50 * time.Millisecond
	o := at(t, h, nil)
	var mu sync.Mutex
	var last, total int64
	o.Progress = func(done, all int64) {
		mu.Lock()
		defer mu.Unlock()
		last, total = done, all
	}
	dir, err := Path(t.Context(), "org/some.model", o)
	require.NoError(t, err)
	require.Equal(t, filepath.Join(cacheOf(o), "models--org--some.model", "snapshots", commit), dir)
	checkSnapshot(t, dir, files, needed)
	require.Greater(t, h.AtOnce(), 1)
	require.LessOrEqual(t, h.AtOnce(), 4)
	require.Equal(t, total, last)
	var sum int64
	for _, name := range needed {
		sum += int64(len(files[name]))
	}
	require.Equal(t, sum, total)
	ref, err := os.ReadFile(filepath.Join(dir, "..", "..", "refs", "main"))
	require.NoError(t, err)
	require.Equal(t, commit, string(ref))
	name, at, ok := Of(dir)
	require.True(t, ok)
	require.Equal(t, []string{"org/some.model", commit}, []string{name, at})

	// What is there is not asked for again.
	before := h.Requests()
	for _, name := range []string{"org/some.model", "org/some.model@main", "org/some.model@" + commit} {
		again, err := Path(t.Context(), name, o)
		require.NoError(t, err)
		require.Equal(t, dir, again)
	}
	require.Equal(t, before, h.Requests())

	// What another tool has removed is, and nothing else.
	require.NoError(t, os.Remove(filepath.Join(dir, "tokenizer.json")))
	_, err = Path(t.Context(), "org/some.model", o)
	require.NoError(t, err)
	require.Equal(t, []string{"GET /api/models/org/some.model/revision/main", "HEAD /org/some.model/resolve/" + commit + "/tokenizer.json"}, h.Requests()[len(before):])
	checkSnapshot(t, dir, files, needed)
}

func TestFetchRevision(t *testing.T) {
	files := model()
	h := hubtest.New(t, "org/m", files)
	const other = "ffffffffffffffffffffffffffffffffffffffff"
	changed := model()
	changed["config.json"] = []byte(`{"model_type": "qwen3"}`)
	h.Commits[other], h.Revisions["refs/pr/1"], h.Revisions["v2"] = changed, other, other
	o := at(t, h, nil)
	v2, err := Path(t.Context(), "org/m@v2", o)
	require.NoError(t, err)
	checkSnapshot(t, v2, changed, needed)
	// The only snapshot there is not main's.
	main, err := Path(t.Context(), "org/m", o)
	require.NoError(t, err)
	require.NotEqual(t, v2, main)
	checkSnapshot(t, main, files, needed)
	pull, err := Path(t.Context(), "org/m@refs/pr/1", o)
	require.NoError(t, err)
	require.Equal(t, v2, pull)
	ref, err := os.ReadFile(filepath.Join(cacheOf(o), "models--org--m", "refs", "refs", "pr", "1"))
	require.NoError(t, err)
	require.Equal(t, other, string(ref))
	_, err = Path(t.Context(), "org/m@v3", o)
	require.ErrorContains(t, err, `org/m has no revision "v3" at `+h.URL)
}

func TestFetchCut(t *testing.T) {
	const shard = "model-00002-of-00003.safetensors"
	for _, ranges := range []bool{true, false} {
		files := model()
		h := hubtest.New(t, "org/m", files)
		h.Cut, h.Cuts = map[string]int{shard: 70_000, "config.json": 3}, map[string]int{shard: 2, "config.json": 2}
		h.Busy, h.NoRanges = 2, !ranges
		dir, err := Path(t.Context(), "org/m", at(t, h, nil))
		require.NoError(t, err)
		checkSnapshot(t, dir, files, needed)
		var parts []string
		for _, r := range h.Requests() {
			if strings.HasPrefix(r, "CDN GET "+shard) {
				parts = append(parts, strings.TrimPrefix(r, "CDN GET "+shard))
			}
		}
		require.Equal(t, "", parts[0])
		require.GreaterOrEqual(t, len(parts), 2)
		require.Regexp(t, `^ bytes=\d+-$`, parts[1])
		if ranges {
			require.NotEqual(t, " bytes=0-", parts[1])
		}
	}
}

// TestFetchResume stops a run and goes on with another.
func TestFetchResume(t *testing.T) {
	files := model()
	h := hubtest.New(t, "org/m", files)
	const shard = "model-00003-of-00003.safetensors"
	h.Cut, h.Cuts = map[string]int{shard: 150_000}, map[string]int{shard: 1}
	o := at(t, h, nil)
	o.wait = time.Hour // until the run is stopped
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		for ctx.Err() == nil {
			left, _ := filepath.Glob(filepath.Join(cacheOf(o), "models--org--m", "blobs", "*"+incomplete))
			blobs, _ := filepath.Glob(filepath.Join(cacheOf(o), "models--org--m", "blobs", "*"))
			if len(left) == 1 && len(blobs) == len(needed) {
				if st, err := os.Stat(left[0]); err == nil && st.Size() > 100_000 {
					stop()
				}
			}
			time.Sleep(time.Millisecond)
		}
	}()
	_, err := Path(ctx, "org/m", o)
	require.ErrorIs(t, err, context.Canceled)
	require.NoDirExists(t, filepath.Join(cacheOf(o), "models--org--m", "snapshots"))
	before := len(h.Requests())
	o.wait = time.Millisecond
	dir, err := Path(t.Context(), "org/m", o)
	require.NoError(t, err)
	checkSnapshot(t, dir, files, needed)
	var loaded []string
	for _, r := range h.Requests()[before:] {
		if strings.HasPrefix(r, "CDN GET") || strings.HasPrefix(r, "GET /org") {
			loaded = append(loaded, r)
		}
	}
	require.Len(t, loaded, 2) // the request, and where it was redirected to
	require.Regexp(t, `^CDN GET `+shard+` bytes=1\d{5}-$`, loaded[1])
}

func TestFetchChecksum(t *testing.T) {
	const shard = "model-00001-of-00003.safetensors"
	for _, name := range []string{shard, "config.json"} {
		files := model()
		h := hubtest.New(t, "org/m", files)
		h.Corrupt = map[string]int{name: 1}
		dir, err := Path(t.Context(), "org/m", at(t, h, nil))
		require.NoError(t, err)
		checkSnapshot(t, dir, files, needed)

		h.Corrupt = map[string]int{name: 2}
		o := at(t, h, nil)
		_, err = Path(t.Context(), "org/m", o)
		require.ErrorIs(t, err, errChecksum)
		require.ErrorContains(t, err, "org/m: "+name+": wrong checksum: what came has ")
		require.NoDirExists(t, filepath.Join(cacheOf(o), "models--org--m", "snapshots"))
		dir, err = Path(t.Context(), "org/m", o)
		require.NoError(t, err)
		checkSnapshot(t, dir, files, needed)
	}
}

// TestFetchGarbage goes on from what is no beginning of the file.
func TestFetchGarbage(t *testing.T) {
	files := model()
	h := hubtest.New(t, "org/m", files)
	o := at(t, h, nil)
	dir, err := Path(t.Context(), "org/m", o)
	require.NoError(t, err)
	for _, size := range []int{10, 200_000, 300_000} {
		shard := filepath.Join(dir, "model-00001-of-00003.safetensors")
		blob, err := filepath.EvalSymlinks(shard)
		require.NoError(t, err)
		require.NoError(t, os.Remove(blob))
		require.NoError(t, os.WriteFile(blob+incomplete, make([]byte, size), 0o666))
		_, err = Path(t.Context(), "org/m", o)
		require.NoError(t, err)
		checkSnapshot(t, dir, files, needed)
	}
}

func TestFetchRefused(t *testing.T) {
	for _, c := range []struct {
		name, model, want string
		env               map[string]string
		change            func(*hubtest.Hub)
	}{
		{"offline", "org/m", "HF_HUB_OFFLINE is set", map[string]string{"HF_HUB_OFFLINE": "1"}, nil},
		{"no such model", "org/n", "org/n: no file or folder here, and no model at http", nil, nil},
		{"private", "org/m", "if it is private, set HF_TOKEN", nil, func(h *hubtest.Hub) { h.Token = "secret" }},
		{"wrong token", "org/m", "or not for the token that is set", map[string]string{"HF_TOKEN": "other"}, func(h *hubtest.Hub) { h.Token = "secret" }},
		{"gated", "org/m", "/org/m, and set HF_TOKEN to a token of yours", nil, func(h *hubtest.Hub) { h.Token, h.Gated = "secret", true }},
		{"file gone", "org/m", "org/m: config.json is not at http", nil, func(h *hubtest.Hub) { h.WithoutIt = "config.json" }},
		{"shard gone", "org/m", `names "model-00002-of-00003.safetensors", which is not there`, nil, func(h *hubtest.Hub) {
			delete(h.Commits[commit], "model-00002-of-00003.safetensors")
		}},
		{"no weights", "org/m", "org/m: no weights that are read here (a.onnx, config.json)", nil, func(h *hubtest.Hub) {
			h.Commits[commit] = map[string][]byte{"a.onnx": nil, "config.json": nil}
		}},
		{"several GGUF", "org/m", "2 models in GGUF, a.gguf and b.gguf among them", nil, func(h *hubtest.Hub) {
			h.Commits[commit] = map[string][]byte{"a.gguf": nil, "b.gguf": nil, "mmproj-f16.gguf": nil}
		}},
		{"busy", "org/m", "cannot be reached: 503 Service Unavailable, 5 times", nil, func(h *hubtest.Hub) { h.Busy = 100 }},
		{"endpoint", "org/m", `HF_ENDPOINT "nowhere": want an address`, map[string]string{"HF_ENDPOINT": "nowhere"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := hubtest.New(t, "org/m", model())
			if c.change != nil {
				c.change(h)
			}
			_, err := Path(t.Context(), c.model, at(t, h, c.env))
			require.ErrorContains(t, err, c.want)
			if c.name == "offline" {
				require.ErrorIs(t, err, ErrOffline)
				require.Empty(t, h.Requests())
			}
		})
	}
}

func TestFetchToken(t *testing.T) {
	files := model()
	for _, file := range []bool{false, true} {
		h := hubtest.New(t, "org/m", files)
		h.Token, h.Moved = "secret", file
		env := map[string]string{"HF_TOKEN": "secret"}
		if file {
			env = map[string]string{"HF_TOKEN_PATH": filepath.Join(t.TempDir(), "token")}
			require.NoError(t, os.WriteFile(env["HF_TOKEN_PATH"], []byte("secret\n"), 0o600))
		}
		dir, err := Path(t.Context(), "org/m", at(t, h, env))
		require.NoError(t, err)
		checkSnapshot(t, dir, files, needed)
		require.False(t, h.Leaked())
	}
}

// TestFetchUnreachable takes what is there where nobody can be asked for more.
func TestFetchUnreachable(t *testing.T) {
	h := hubtest.New(t, "org/m", model())
	o := at(t, h, nil)
	dir, err := Path(t.Context(), "org/m", o)
	require.NoError(t, err)
	require.NoError(t, os.Remove(filepath.Join(dir, "tokenizer.json")))
	h.Busy = 100
	again, err := Path(t.Context(), "org/m", o)
	require.NoError(t, err)
	require.Equal(t, dir, again)
	require.NoError(t, os.Remove(filepath.Join(dir, "model-00001-of-00003.safetensors")))
	_, err = Path(t.Context(), "org/m", o)
	require.ErrorIs(t, err, errUnreachable)
}

// TestFetchTogether has two runs want the same: each file is loaded once.
func TestFetchTogether(t *testing.T) {
	files := model()
	h := hubtest.New(t, "org/m", files)
	h.Slow = 30 * time.Millisecond
	o := at(t, h, nil)
	var wg sync.WaitGroup
	dirs, errs := make([]string, 3), make([]error, 3)
	for i := range dirs {
		wg.Go(func() { dirs[i], errs[i] = Path(t.Context(), "org/m", o) })
	}
	wg.Wait()
	for i := range dirs {
		require.NoError(t, errs[i])
		checkSnapshot(t, dirs[i], files, needed)
	}
	count := map[string]int{}
	for _, r := range h.Requests() {
		if strings.HasPrefix(r, "CDN GET") {
			count[r]++
		}
	}
	require.Len(t, count, 4)
	for r, n := range count {
		require.Equal(t, 1, n, r)
	}
}

func TestFetchStalled(t *testing.T) {
	files := model()
	h := hubtest.New(t, "org/m", files)
	h.Slow = 2 * time.Second
	o := at(t, h, nil)
	o.stalled = 50 * time.Millisecond
	_, err := Path(t.Context(), "org/m", o)
	require.ErrorIs(t, err, errUnreachable)
	require.Regexp(t, "nothing came for 50ms|timeout awaiting response headers", err.Error()) // where the machine is busy even these are late
}

func TestWeights(t *testing.T) {
	for _, c := range []struct{ files, want string }{
		{"config.json model.safetensors pytorch_model.bin", "model.safetensors"},
		{"config.json gptq_model-4bit.safetensors", "gptq_model-4bit.safetensors"},
		{"config.json pytorch_model.bin training_args.bin model.onnx", "pytorch_model.bin"},
		{"config.json model.pt optimizer.pt", "model.pt"},
		{"consolidated.safetensors params.json tekken.json", "consolidated.safetensors"},
		{"consolidated.00.pth consolidated.01.pth params.json", "consolidated.00.pth consolidated.01.pth"},
		{"a-00002-of-00002.gguf a-00001-of-00002.gguf mmproj-a.gguf README.md", "a-00001-of-00002.gguf a-00002-of-00002.gguf"},
		{"adapter_config.json adapter_model.safetensors tokenizer.json", "adapter_model.safetensors"},
		{"adapter_config.json adapter_model.bin config.json", "adapter_model.bin"},
		{"adapter_config.json adapter_model.bin config.json model.safetensors", "model.safetensors"},
		{"config.json model-00001-of-00002.safetensors", ""}, // a shard without the index
	} {
		found, err := names(strings.Fields(c.files)).weights(nil)
		if c.want == "" {
			require.ErrorIs(t, err, errNoWeights, c.files)
			continue
		}
		require.NoError(t, err, c.files)
		require.Equal(t, c.want, strings.Join(found, " "))
	}
	hostile := names{"../config.json", "a/../../b.json", `..\x.json`, "config.json", "model.safetensors"}
	require.Equal(t, names{"config.json", "model.safetensors"}, hostile.top())
}

func TestSplit(t *testing.T) {
	for text, want := range map[string][]string{
		"org/name": {"org/name", ""}, "Qwen/Qwen3-0.6B@main": {"Qwen/Qwen3-0.6B", "main"}, "a/b@refs/pr/7": {"a/b", "refs/pr/7"}, "a/b@v1.0+x": {"a/b", "v1.0+x"},
	} {
		name, revision, ok := Split(text)
		require.True(t, ok, text)
		require.Equal(t, want, []string{name, revision})
	}
	for _, text := range []string{"name", "a/b/c", "/a/b", "./b", "../b", "a/b@", "a/b@../x", "a/b@/x", "a b/c", "a/b.gguf", "dir/model.safetensors", "", "a/b@x y", `a\b`, "~/x"} {
		_, _, ok := Split(text)
		require.False(t, ok, text)
	}
}

func TestBase(t *testing.T) {
	files := model()
	h := hubtest.New(t, "org/m", files)
	o := at(t, h, nil)
	dir := t.TempDir()
	require.NoError(t, Base(t.Context(), dir, o)) // no adapter
	require.NoError(t, os.WriteFile(filepath.Join(dir, adapterConfig), []byte(`{"base_model_name_or_path": "org/m"}`), 0o666))
	require.NoError(t, Base(t.Context(), dir, o))
	checkSnapshot(t, filepath.Join(cacheOf(o), "models--org--m", "snapshots", commit), files, needed)
	require.NoError(t, os.WriteFile(filepath.Join(dir, adapterConfig), []byte(`{"base_model_name_or_path": "org/n"}`), 0o666))
	require.ErrorContains(t, Base(t.Context(), dir, o), `is a LoRA adapter for "org/n": org/n: no file or folder here`)
}

// TestPython has huggingface_hub find what was loaded, and nothing lack.
func TestPython(t *testing.T) {
	python := os.Getenv("LOWBIT_HUB_PYTHON")
	if python == "" {
		python = "python3"
	}
	if err := exec.Command(python, "-c", "import huggingface_hub").Run(); err != nil {
		t.Skipf("%s has no huggingface_hub (LOWBIT_HUB_PYTHON names another): %v", python, err)
	}
	h := hubtest.New(t, "org/m", model())
	o := at(t, h, nil)
	dir, err := Path(t.Context(), "org/m", o)
	require.NoError(t, err)
	run := func(script string) string {
		c := exec.Command(python, "-c", script)
		c.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "HF_") })
		c.Env = append(c.Env, "HF_HOME="+o.Getenv("HF_HOME"), "HF_ENDPOINT="+h.URL)
		out, err := c.CombinedOutput()
		require.NoError(t, err, string(out))
		return strings.TrimSpace(string(out))
	}
	require.Equal(t, dir, run(`from huggingface_hub import snapshot_download; print(snapshot_download("org/m", local_files_only=True))`))
	require.Equal(t, "1 1", run(`from huggingface_hub import scan_cache_dir; i = scan_cache_dir(); print(len(i.repos), len(list(i.repos)[0].revisions)); assert not i.warnings, i.warnings`))

	// And the other way round.
	other := at(t, h, nil)
	o = other
	run(`from huggingface_hub import hf_hub_download
for name in ["config.json", "tokenizer.json", "model.safetensors.index.json"] + ["model-0000%d-of-00003.safetensors" % i for i in [1, 2, 3]]:
    hf_hub_download("org/m", name)`)
	before := len(h.Requests())
	found, err := Path(t.Context(), "org/m", other)
	require.NoError(t, err)
	require.Len(t, h.Requests(), before)
	require.Equal(t, filepath.Base(dir), filepath.Base(found))
}
