package hub

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/internal/disk"
)

const (
	configName    = "config.json"
	adapterConfig = "adapter_config.json"
	maxIndex      = 64 << 20 // bytes of an index of shards
)

// errNoWeights says that none of the files are weights of a kind that is read.
var errNoWeights = errors.New("no weights that are read here")

// numbered are parts of what lies in several files.
var numbered = regexp.MustCompile(`-\d+-of-\d+\.[a-z]+$`)

// names are the files of a folder or repository.
type names []string

func (n names) has(name string) bool { return slices.Contains(n, name) }

// top keeps those in the outer folder: nothing else is read.
func (n names) top() names {
	return slices.DeleteFunc(slices.Clone(n), func(name string) bool {
		return strings.ContainsAny(name, "/\\:\x00") || !disk.PlainName(name)
	})
}

// weights lists the files of weights that package checkpoint would open, and their
// index first if there is one: what comes first there comes first here. read returns
// what is in an index.
func (n names) weights(read func(name string) ([]byte, error)) ([]string, error) {
	found, err := n.model(read)
	if (errors.Is(err, errNoWeights) || err == nil && !n.has(configName)) && n.has(adapterConfig) {
		for _, name := range []string{"adapter_model.safetensors", "adapter_model.bin"} {
			if n.has(name) {
				return []string{name}, nil
			}
		}
	}
	return found, err
}

// model lists the weights of a model that is no adapter.
func (n names) model(read func(name string) ([]byte, error)) ([]string, error) {
	for _, kind := range []func(func(string) ([]byte, error)) ([]string, error){
		n.indexed("model.safetensors"),
		n.lone(".safetensors"),
		n.indexed("pytorch_model.bin"),
		n.indexed("consolidated.safetensors"),
		n.consolidated,
		n.lone(".bin", ".pt", ".pth"),
		n.gguf,
	} {
		if found, err := kind(read); err != nil || len(found) > 0 {
			return found, err
		}
	}
	return nil, errNoWeights
}

// indexed finds a file of this name, or those that the index of its shards names.
func (n names) indexed(single string) func(func(string) ([]byte, error)) ([]string, error) {
	return func(read func(string) ([]byte, error)) ([]string, error) {
		index := single + ".index.json"
		switch {
		case n.has(single):
			return []string{single}, nil
		case !n.has(index):
			return nil, nil
		}
		data, err := read(index)
		if err != nil {
			return nil, err
		}
		var i struct {
			Files map[string]string `json:"weight_map"`
		}
		if err := json.Unmarshal(data, &i); err != nil || len(i.Files) == 0 {
			return nil, fmt.Errorf("%s: no map of weights to files: %w", index, errors.Join(err, errIndex))
		}
		shards := slices.Compact(slices.Sorted(maps.Values(i.Files)))
		for _, s := range shards {
			if !n.has(s) {
				return nil, fmt.Errorf("%s names %q, which is not there: %w", index, s, errIndex)
			}
		}
		return append([]string{index}, shards...), nil
	}
}

var errIndex = errors.New("the index does not agree with the files")

// besides are files of tensors beside a model's.
var besides = []string{"adapter_", "consolidated", "training_args", "optimizer", "scheduler", "rng_state", "scaler"}

// lone finds the only file with one of the endings that is not one of several parts.
func (n names) lone(ends ...string) func(func(string) ([]byte, error)) ([]string, error) {
	return func(func(string) ([]byte, error)) ([]string, error) {
		var found []string
		for _, name := range n {
			beside := slices.ContainsFunc(besides, func(s string) bool { return strings.HasPrefix(name, s) })
			if slices.Contains(ends, filepath.Ext(name)) && !beside {
				found = append(found, name)
			}
		}
		if len(found) != 1 || numbered.MatchString(found[0]) {
			return nil, nil
		}
		return found, nil
	}
}

// consolidated finds Meta's files.
func (n names) consolidated(func(string) ([]byte, error)) ([]string, error) {
	var found []string
	for _, name := range n {
		if strings.HasPrefix(name, "consolidated.") && strings.HasSuffix(name, ".pth") {
			found = append(found, name)
		}
	}
	return found, nil
}

// gguf finds the only model in GGUF, in however many parts.
func (n names) gguf(func(string) ([]byte, error)) ([]string, error) {
	models := map[string][]string{}
	for _, name := range n {
		if strings.HasSuffix(name, ".gguf") && !strings.HasPrefix(name, "mmproj") {
			model := numbered.ReplaceAllString(name, "")
			models[model] = append(models[model], name)
		}
	}
	if len(models) > 1 {
		all := slices.Sorted(maps.Keys(models))
		return nil, fmt.Errorf("%d models in GGUF, %s and %s among them: load one and give its path", len(all), all[0], all[1])
	}
	for _, parts := range models {
		return slices.Sorted(slices.Values(parts)), nil
	}
	return nil, nil
}

// beside lists what belongs to a model besides its weights: configuration, tokenizer,
// templates, code, model card, licence.
func (n names) beside(weights []string) []string {
	var found []string
	for _, name := range n {
		lower := strings.ToLower(name)
		switch {
		case slices.Contains(weights, name) || strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".index.json"):
		case name == "trainer_state.json" || name == adapterConfig && !strings.HasPrefix(weights[0], "adapter_"):
		case name == "params.json" && !strings.HasPrefix(weights[0], "consolidated"):
		case slices.Contains([]string{".json", ".txt", ".model", ".jinja", ".tiktoken", ".py"}, filepath.Ext(lower)),
			lower == "readme.md", strings.HasPrefix(lower, "tokenizer"),
			strings.HasPrefix(lower, "license"), strings.HasPrefix(lower, "licence"), strings.HasPrefix(lower, "notice"):
			found = append(found, name)
		}
	}
	return found
}

// tokenizers are what ids can be had from; a GGUF file has its own.
var tokenizers = []string{"tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"}

// complete says of a snapshot whether its weights are all there, and whether what
// belongs to them is. Another tool may have loaded only what it needed.
func complete(dir string) (weights, all bool) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, false
	}
	var n names
	for _, e := range entries {
		if st, err := os.Stat(filepath.Join(dir, e.Name())); err == nil && st.Mode().IsRegular() { // behind the link
			n = append(n, e.Name())
		}
	}
	files, err := n.weights(func(name string) ([]byte, error) { return disk.ReadFile(filepath.Join(dir, name), maxIndex) })
	if err != nil {
		return false, false
	}
	first := files[0]
	switch {
	case strings.HasSuffix(first, ".gguf"):
		return true, partsComplete(files)
	case strings.HasPrefix(first, "adapter_"):
		return true, true
	case strings.HasPrefix(first, "consolidated"):
		return true, n.has("params.json") && n.tokenized()
	}
	return n.has(configName), n.has(configName) && n.tokenized()
}

func (n names) tokenized() bool {
	return slices.ContainsFunc(tokenizers, n.has) || slices.ContainsFunc(n, func(s string) bool { return strings.HasSuffix(s, ".tiktoken") })
}

// partsComplete says whether a model in GGUF has as many parts as their names say.
func partsComplete(files []string) bool {
	part := numbered.FindString(files[0])
	var first, of int
	_, err := fmt.Sscanf(part, "-%d-of-%d.gguf", &first, &of)
	return part == "" || err == nil && of == len(files)
}
