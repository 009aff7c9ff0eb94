// Package about says of a model in GGUF what it is beside its weights: name, licence,
// languages, how to sample.
package about

import (
	"bytes"
	"errors"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel/internal/vocab"
	"github.com/golowbit/lowbit/checkpoint/internal/frontmatter"
	"github.com/golowbit/lowbit/checkpoint/internal/hubcache"
	"github.com/golowbit/lowbit/internal/gguf"
)

const keyGeneral = "general."

// ownKeys of "general." are this file's own, whatever its source says.
var ownKeys = []string{"architecture", "type", "file_type", "quantization_version", "alignment"}

// named is the name of the model at path: on the hub, or that of its folder or file. from
// says, of one on the hub, where it is.
func named(path string) (name string, from []gguf.KV) {
	if name, commit, ok := hubcache.Of(path); ok {
		url := hubcache.URL + "/" + name
		return name[strings.LastIndex(name, "/")+1:], []gguf.KV{
			{Key: keyGeneral + "source.url", Value: url + "/tree/" + commit}, {Key: keyGeneral + "source.repo_url", Value: url},
		}
	}
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return filepath.Base(path), nil
}

// OfFile is what a file says, for one that is made of it; path is where it lies.
func OfFile(f *gguf.File, path string) []gguf.KV {
	name, _ := named(path)
	kv := []gguf.KV{{Key: keyGeneral + "name", Value: name}}
	for _, e := range f.KV() {
		key, ok := strings.CutPrefix(e.Key, keyGeneral)
		switch {
		case !ok || slices.Contains(ownKeys, key):
		case key == "name":
			kv[0].Value = e.Value
		default:
			kv = append(kv, e)
		}
	}
	return kv
}

// OfFolder is what llama.cpp's converter takes from the model card and from
// generation_config.json; path is the folder's. weights are how many the model has,
// 0 if that is no size to name it by.
func OfFolder(files fs.FS, path string, weights int64) ([]gguf.KV, error) {
	name, from := named(path)
	card, err := modelCard(files)
	if err != nil {
		return nil, err
	}
	texts := map[string]string{"name": name, "size_label": ""}
	if weights > 0 {
		texts["size_label"] = sizeLabel(weights)
	}
	for _, e := range cardTexts {
		for _, key := range e.from {
			if s := strings.Join(card.list(key), ","); s != "" {
				texts[e.key] = s
				break
			}
		}
	}
	var kv []gguf.KV
	for _, key := range []string{"name", "author", "version", "organization", "finetune", "basename", "description", "size_label", "license", "license.name", "license.link"} {
		if texts[key] != "" {
			kv = append(kv, gguf.KV{Key: keyGeneral + key, Value: texts[key]})
		}
	}
	kv = append(kv, from...)
	for _, e := range []struct {
		key  string
		from []string
	}{{"tags", []string{"tags", "pipeline_tag"}}, {"languages", []string{"languages", "language"}}} {
		var all []string
		for _, key := range e.from {
			all = append(all, card.list(key)...)
		}
		if len(all) > 0 {
			kv = append(kv, gguf.KV{Key: keyGeneral + e.key, Value: all})
		}
	}
	sampling, err := vocab.Sampling(files)
	return append(kv, sampling...), err
}

// cardTexts are the keys of a model card by what they are called in GGUF.
var cardTexts = []struct {
	key  string
	from []string
}{
	{"name", []string{"name", "model_name"}}, {"author", []string{"author", "model_author", "model_creator"}},
	{"version", []string{"version", "model_version"}}, {"organization", []string{"organization", "model_organization"}},
	{"finetune", []string{"finetune", "model_finetune"}}, {"basename", []string{"basename", "model_basename", "model_type"}},
	{"description", []string{"description", "model_description"}}, {"size_label", []string{"size_label", "model_size_label"}},
	{"license", []string{"license"}}, {"license.name", []string{"license_name"}}, {"license.link", []string{"license_link"}},
}

// card is what stands before the text of a model card.
type card map[string]yaml.Node

// modelCard reads README.md. One that says nothing that can be read says nothing.
func modelCard(files fs.FS) (card, error) {
	data, err := fs.ReadFile(files, "README.md")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	front, _, ok := frontmatter.Split(data)
	if !ok {
		return nil, nil
	}
	var c card
	if yaml.Unmarshal(bytes.ReplaceAll(front, []byte("\t"), []byte("  ")), &c) != nil {
		return nil, nil
	}
	return c, nil
}

// list is a value that is one text or several, as they are written: "no" is Norwegian.
func (c card) list(key string) []string {
	n, ok := c[key]
	if !ok {
		return nil
	}
	nodes := []*yaml.Node{&n}
	if n.Kind == yaml.SequenceNode {
		nodes = n.Content
	}
	var out []string
	for _, n := range nodes {
		if n.Kind == yaml.ScalarNode && n.Tag != "!!null" && n.Value != "" {
			out = append(out, n.Value)
		}
	}
	return out
}

// sizeLabel is a number of weights in thousands, millions and so on, with two digits
// at least.
func sizeLabel(n int64) string {
	x, unit := float64(n)/1e3, 0
	for x > 1e3 && unit < len(units)-1 {
		x /= 1e3
		unit++
	}
	digits := 0
	if math.RoundToEven(x) < 10 {
		digits = 1
	}
	return strconv.FormatFloat(x, 'f', digits, 64) + units[unit:unit+1]
}

// units are thousands, millions, billions and trillions.
const units = "KMBT"
