package vocab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/tokenizer"
)

// templates adds the chat templates: the default one and those with a name.
func templates(f *gguf.File, files map[string][]byte) error {
	for _, e := range f.KV() {
		name, named := strings.CutPrefix(e.Key, keyTemplate+".")
		if e.Key != keyTemplate && !named {
			continue
		}
		s, ok := e.Value.(string)
		if !ok {
			return fmt.Errorf("key %q: a %T, want a string", e.Key, e.Value)
		}
		switch {
		case !named:
			files[templateFile] = []byte(s)
		case name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "":
			return fmt.Errorf("key %q: want a name of letters, digits, - and _", e.Key)
		default:
			files[templateFolder+"/"+name+templateExt] = []byte(s)
		}
	}
	return nil
}

// sampling are llama.cpp's names for settings of generation_config.json.
var sampling = []struct {
	key, name string
	count     bool
}{
	{"top_k", "top_k", true}, {"top_p", "top_p", false}, {"min_p", "min_p", false}, {"temp", "temperature", false},
	{"penalty_repeat", "repetition_penalty", false}, {"penalty_last_n", "penalty_last_n", true},
	{"xtc_probability", "xtc_probability", false}, {"xtc_threshold", "xtc_threshold", false},
	{"mirostat", "mirostat", true}, {"mirostat_tau", "mirostat_tau", false}, {"mirostat_eta", "mirostat_eta", false},
}

const keySampling = "general.sampling."

// Sampling is how to sample, as a folder's generation_config.json has it. What llama.cpp
// has no number for is left out.
func Sampling(files fs.FS) ([]gguf.KV, error) {
	var o map[string]any
	if err := readJSON(files, generationFile, &o); err != nil {
		return nil, err
	}
	var kv []gguf.KV
	for _, s := range sampling {
		x, ok := o[s.name].(float64)
		switch {
		case !ok || math.Abs(x) > math.MaxInt32:
		case !s.count:
			kv = append(kv, gguf.KV{Key: keySampling + s.key, Value: float32(x)})
		case x == math.Trunc(x):
			kv = append(kv, gguf.KV{Key: keySampling + s.key, Value: int32(x)})
		}
	}
	return kv, nil
}

// generationConfig is generation_config.json: the tokens by their ids, all that end an
// answer, and how to sample.
func generationConfig(f *gguf.File, v *vocabulary) (jsonObject, error) {
	o := jsonObject{}
	id := func(role string) (int, error) {
		n, err := f.Count("tokenizer.ggml."+role+"_token_id", -1)
		if n >= len(v.tokens) {
			n = -1
		}
		return n, err
	}
	var ends []int
	for _, role := range []string{"eos", "eot", "eom"} {
		n, err := id(role)
		if err != nil {
			return nil, err
		}
		if n >= 0 && !slices.Contains(ends, n) {
			ends = append(ends, n)
		}
	}
	switch len(ends) {
	case 0:
	case 1:
		o["eos_token_id"] = ends[0]
	default:
		o["eos_token_id"] = ends
	}
	for key, role := range map[string]string{"bos_token_id": "bos", "pad_token_id": "padding"} {
		n, err := id(role)
		if err != nil {
			return nil, err
		}
		if n >= 0 {
			o[key] = n
		}
	}
	for _, s := range sampling {
		value, ok := f.Value(keySampling + s.key)
		if !ok {
			continue
		}
		switch x := value.(type) {
		case float32:
			// the shortest decimal that gives it
			o[s.name], _ = strconv.ParseFloat(strconv.FormatFloat(float64(x), 'g', -1, 32), 64)
		case float64, int32, uint32, int64, uint64:
			o[s.name] = x
		default:
			return nil, fmt.Errorf("key %q: a %T, want a number", keySampling+s.key, value)
		}
		if x, ok := o[s.name].(float64); ok && x-x != 0 {
			return nil, fmt.Errorf("key %q: %v, want a finite number", keySampling+s.key, x)
		}
		o["do_sample"] = true
	}
	return o, nil
}

// ends are the tokens that end a turn or a message: those that generation_config.json,
// or else config.json, lists beside EOS.
func ends(t *tokenizer.Tokenizer, files fs.FS, vocab int) ([]gguf.KV, error) {
	keys := []string{"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}
	for _, name := range []string{generationFile, "config.json"} {
		var o struct {
			EOS json.RawMessage `json:"eos_token_id"`
		}
		if err := readJSON(files, name, &o); err != nil {
			return nil, err
		}
		var ids []int
		if json.Unmarshal(o.EOS, &ids) != nil || len(ids) == 0 {
			continue
		}
		eos, ok := t.EOS()
		var kv []gguf.KV
		for _, id := range ids {
			if (ok && id == int(eos)) || id < 0 || id >= vocab || len(kv) == len(keys) {
				continue
			}
			kv = append(kv, gguf.KV{Key: keys[len(kv)], Value: uint32(id)})
		}
		if len(kv) == len(keys) { // the one of a message, where its name tells it
			if s, _ := t.Token(int32(kv[0].Value.(uint32))); s == "<|eom_id|>" {
				kv[0].Value, kv[1].Value = kv[1].Value, kv[0].Value
			}
		}
		return kv, nil
	}
	return nil, nil
}

// readJSON reads a file of a folder; one that is not there leaves out as it is.
func readJSON(files fs.FS, name string, out any) error {
	data, err := fs.ReadFile(files, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// namedTemplates are the chat templates of a folder that have names.
func namedTemplates(files fs.FS) ([]gguf.KV, error) {
	texts := map[string]string{}
	var o struct {
		Template json.RawMessage `json:"chat_template"`
	}
	if err := readJSON(files, configFile, &o); err != nil {
		return nil, err
	}
	var list []struct{ Name, Template string }
	if json.Unmarshal(o.Template, &list) == nil {
		for _, e := range list {
			texts[e.Name] = e.Template
		}
	}
	found, err := fs.Glob(files, templateFolder+"/*"+templateExt)
	if err != nil {
		return nil, err
	}
	for _, name := range found {
		data, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		texts[strings.TrimSuffix(path.Base(name), templateExt)] = string(data)
	}
	delete(texts, "default")
	var kv []gguf.KV
	var names []string
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		// as llama.cpp's converter spells them
		key := strings.Map(func(r rune) rune {
			if r < 128 && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
				return r
			}
			return '_'
		}, name)
		if key == "" || slices.Contains(names, key) {
			continue
		}
		names = append(names, key)
		kv = append(kv, gguf.KV{Key: keyTemplate + "." + key, Value: texts[name]})
	}
	if len(names) > 0 {
		kv = append(kv, gguf.KV{Key: keyTemplate + "s", Value: names})
	}
	return kv, nil
}
