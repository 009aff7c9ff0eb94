package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/formats/bitsandbytes"
	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/checkpoint/internal/coded"
	"github.com/golowbit/lowbit/checkpoint/internal/consolidated"
	"github.com/golowbit/lowbit/checkpoint/internal/copied"
	"github.com/golowbit/lowbit/checkpoint/internal/hubcache"
	"github.com/golowbit/lowbit/checkpoint/internal/leftover"
	"github.com/golowbit/lowbit/checkpoint/internal/several"
	"github.com/golowbit/lowbit/checkpoint/internal/torchfile"
	"github.com/golowbit/lowbit/checkpoint/internal/weights"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/safetensors"
)

// What people have in a folder: which files hold the tensors.

// opener opens the tensors of a folder. It fails with fs.ErrNotExist where the
// folder has no files of its kind. config is config.json, or nil; an opener
// that can make one returns it.
type opener func(dir string, config json.RawMessage) (weights.Tensors, json.RawMessage, error)

// openers lists the kinds of files, in the order in which they are tried:
// where a folder has several, the first counts, as in transformers.
func openers() []opener {
	return []opener{openSafetensors, openLoneSafetensors, openTorch, openConsolidated, openLoneTorch}
}

func openSafetensors(dir string, config json.RawMessage) (weights.Tensors, json.RawMessage, error) {
	r, err := safetensors.OpenFolder(dir)
	if err != nil {
		// What is missing may be a shard that the index names.
		if _, statErr := os.Lstat(filepath.Join(dir, safetensors.IndexName)); statErr == nil {
			return nil, nil, hide(err)
		}
		return nil, nil, err
	}
	return weights.Safetensors(r, dir), config, nil
}

func openTorch(dir string, config json.RawMessage) (weights.Tensors, json.RawMessage, error) {
	r, err := torchfile.OpenFolder(dir)
	if err != nil {
		if _, statErr := os.Lstat(filepath.Join(dir, torchfile.IndexName)); statErr == nil {
			return nil, nil, hide(err)
		}
		return nil, nil, err
	}
	return r, config, nil
}

func openConsolidated(dir string, config json.RawMessage) (weights.Tensors, json.RawMessage, error) {
	if !consolidated.Found(dir) {
		return nil, nil, fs.ErrNotExist
	}
	t, config, err := consolidated.Open(dir, config)
	return t, config, hide(err)
}

// openLoneSafetensors opens the only safetensors file of a folder, whatever its
// name: older AutoGPTQ named it after the scheme.
func openLoneSafetensors(dir string, config json.RawMessage) (weights.Tensors, json.RawMessage, error) {
	path, err := lone(dir, []string{".safetensors"}, []string{"adapter_", "consolidated"})
	if err != nil {
		return nil, nil, err
	}
	f, err := safetensors.Open(path)
	if err != nil {
		return nil, nil, hide(err)
	}
	return weights.Safetensors(f, dir), config, nil
}

// openLoneTorch opens the only PyTorch file of a folder, besides those that a
// training run keeps there.
func openLoneTorch(dir string, config json.RawMessage) (weights.Tensors, json.RawMessage, error) {
	path, err := lone(dir, []string{".bin", ".pt", ".pth"}, []string{"adapter_", "training_args", "optimizer", "scheduler", "rng_state", "scaler"})
	if err != nil {
		return nil, nil, err
	}
	f, err := torchfile.Open(path)
	if err != nil {
		return nil, nil, hide(err)
	}
	return f, config, nil
}

// lone finds the only file with one of the endings whose name does not begin
// with one of the others.
func lone(dir string, ends, others []string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var found []string
	for _, e := range entries {
		other := slices.ContainsFunc(others, func(s string) bool { return strings.HasPrefix(e.Name(), s) })
		path := filepath.Join(dir, e.Name())
		if st, err := os.Stat(path); slices.Contains(ends, filepath.Ext(path)) && !other && err == nil && st.Mode().IsRegular() {
			found = append(found, path)
		}
	}
	if len(found) != 1 {
		return "", fs.ErrNotExist
	}
	return found[0], nil
}

// hide makes an error that is no longer fs.ErrNotExist: files of the kind are
// there, but one of them is missing.
func hide(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &brokenFolder{err}
	}
	return err
}

type brokenFolder struct{ err error }

func (b *brokenFolder) Error() string { return b.err.Error() }

// openFolder opens the tensors of a folder. config is its config.json or nil;
// the one to use is returned.
func openFolder(dir string, config json.RawMessage) (layout.Source, json.RawMessage, error) {
	for _, open := range openers() {
		t, c, err := open(dir, config)
		if err == nil {
			return weights.Source{Tensors: weights.Single(t)}, c, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
	}
	return nil, nil, nothingThere(dir)
}

// nothingThere says what is in a folder without weights, and what helps.
func nothingThere(dir string) error {
	if names, err := hubcache.Dangling(dir); err == nil && len(names) > 0 {
		return fmt.Errorf("%s: the download did not end: nothing is behind the link %s: %w", dir, names[0], fs.ErrNotExist)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, kind := range []struct{ end, help string }{
		{".gguf", "is no model of its own, but what llama.cpp has beside one for images"},
		{".h5", "is TensorFlow's, which is not read: save the model with transformers (save_pretrained) first"},
		{".msgpack", "is Flax's, which is not read: save the model with transformers (save_pretrained) first"},
		{".onnx", "is ONNX, which is not read: take the model it was made of"},
		{".nemo", "is NeMo's, which is not read: convert it to Hugging Face's layout first"},
		{".incomplete", "is a download that did not end"},
	} {
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), kind.end) {
				return fmt.Errorf("%s: no model.safetensors, pytorch_model.bin or consolidated weights; %s %s: %w", dir, e.Name(), kind.help, fs.ErrNotExist)
			}
		}
	}
	return fmt.Errorf("%s: neither %s nor %s, nor pytorch_model.bin or consolidated weights: %w", dir, safetensors.SingleName, safetensors.IndexName, fs.ErrNotExist)
}

// openModelFolder opens a folder that is a model of its own.
func openModelFolder(path string, formats []layout.Format) (*Model, error) {
	config, missing := readConfig(filepath.Join(path, layout.ConfigFile))
	if missing != nil && !errors.Is(missing, fs.ErrNotExist) {
		return nil, missing
	}
	src, config, err := openFolder(path, config)
	if err != nil {
		return nil, err
	}
	noConfig := config == nil
	if noConfig {
		config = json.RawMessage("{}")
	}
	if config, err = singleConfig(config); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", filepath.Join(path, layout.ConfigFile), err), src.Close())
	}
	m := &Model{path: path, config: config, noConfig: noConfig, src: src, format: dense.Format{}, files: os.DirFS(path)}
	if err := m.decode(formats); err != nil {
		return nil, errors.Join(err, src.Close())
	}
	return m.indexed()
}

// decode finds the format in which the model is quantized, if it is.
func (m *Model) decode(formats []layout.Format) error {
	quantization, err := quantizationConfig(m.path, m.config, formats)
	if err != nil || quantization == nil || leftover.Of(quantization) && leftover.Nothing(m.src) {
		return err
	}
	if quantization, err = leftover.Plain(quantization); err != nil {
		return err
	}
	if done, err := m.showCoded(quantization); done || err != nil {
		return err
	}
	reader, err := detect(quantization, formats)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(m.path, layout.ConfigFile), err)
	}
	m.format = reader
	if u, ok := reader.(layout.Unstacker); ok {
		src, err := u.Unstack(m.src)
		if err != nil {
			return err
		}
		m.src = src
	}
	m.dec, err = reader.Open(quantization, m.src)
	return err
}

// showCoded shows tensors of codes and scales as floats. done says that nothing is left
// that is quantized.
func (m *Model) showCoded(quantization json.RawMessage) (done bool, err error) {
	src, err := coded.Show(quantization, m.src)
	if src == nil || err != nil {
		return false, err
	}
	m.src = src
	if kinds := src.Kinds(); kinds != "" {
		m.notes = append(m.notes, "requantized from "+kinds+", whose values are taken for the model's")
	}
	if slices.ContainsFunc(src.Names(), func(name string) bool { return strings.HasSuffix(name, "_packed") }) || bitsandbytes.Has(src.Names()) {
		return false, nil
	}
	o, err := layout.ParseObject(m.config)
	if err != nil {
		return false, err
	}
	o.Remove(layout.QuantizationKey)
	o.Remove(copied.OlderKey)
	m.config = o.Bytes()
	return true, nil
}

// singleConfig says float32 where a config.json says float64: its tensors are
// shown as that.
func singleConfig(config json.RawMessage) (json.RawMessage, error) {
	o, err := layout.ParseObject(config)
	if err != nil {
		return nil, err
	}
	changed := false
	for _, key := range []string{"dtype", "torch_dtype"} {
		if v, ok := o.Get(key); ok && (string(v) == `"float64"` || string(v) == `"torch.float64"`) {
			o.Set(key, json.RawMessage(`"float32"`))
			changed = true
		}
	}
	if !changed {
		return config, nil
	}
	return o.Bytes(), nil
}

// openAnyFolder opens a folder that is a model, or holds one in one file.
func openAnyFolder(dir string, formats []layout.Format) (*Model, error) {
	m, none := openModelFolder(dir, formats)
	if !errors.Is(none, fs.ErrNotExist) {
		return m, none
	}
	path, err := several.FileIn(dir, formats)
	if err != nil {
		return nil, err
	}
	if path == "" {
		return nil, none
	}
	if _, err := os.Stat(path); err != nil { // the first part, which the name of another promised
		return nil, fmt.Errorf("%s: a part of the model in this folder is missing: %w", path, hide(fs.ErrNotExist))
	}
	return openFile(path, formats)
}
