package decoder_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// withoutEffect are keys of config.json that change no logits, of these
// architectures or (at "") of all.
var withoutEffect = map[string][]string{
	"": {"transformers_version", "dtype", "torch_dtype", "bos_token_id", "eos_token_id", "pad_token_id"},
}

// TestKeys changes one key of each config.json after the other: either the
// logits change, or there is an error, or the key is known to do nothing. So no
// option of these architectures is read over.
func TestKeys(t *testing.T) {
	for _, dir := range architectureDirs(t) {
		data, err := os.ReadFile(filepath.Join(dir, "config.json"))
		require.NoError(t, err)
		var config map[string]any
		require.NoError(t, json.Unmarshal(data, &config))
		t.Run(filepath.Base(dir), func(t *testing.T) {
			folder, err := safetensors.OpenFolder(dir)
			require.NoError(t, err)
			defer folder.Close()
			ids := [][]int32{make([]int32, 36)}
			for i := range ids[0] {
				ids[0][i] = int32(i * 7 % 90)
			}
			want, err := tryRun(fileWeights{folder}, config, ids)
			require.NoError(t, err)
			model := config["model_type"].(string)
			eachKey(config, "", func(path string) {
				if slices.Contains(withoutEffect[""], path) || slices.Contains(withoutEffect[model], path) {
					return
				}
				got, err := tryRun(fileWeights{folder}, config, ids)
				if err == nil && slices.Equal(got.Data, want.Data) {
					t.Errorf("%s: %s has no effect", model, path)
				}
			})
		})
	}
}

// eachKey calls f with each key changed in turn, also in nested objects.
func eachKey(config map[string]any, prefix string, f func(path string)) {
	for key, old := range config {
		switch v := old.(type) {
		case map[string]any:
			if !strings.HasPrefix(key, "vision") {
				eachKey(v, prefix+key+".", f)
			}
			continue
		case float64:
			config[key] = 2*v + 1
		case bool:
			config[key] = !v
		case string:
			config[key] = v + "x"
		case nil:
			config[key] = 3
		default:
			continue
		}
		f(prefix + key)
		config[key] = old
	}
}

// tryRun is run that gives an error back.
func tryRun(src decoder.Weights, config map[string]any, ids [][]int32) (*tensor.Matrix, error) {
	data, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	m, err := decoder.ParseConfig(data)
	if err != nil {
		return nil, err
	}
	if err := m.Fit(src); err != nil {
		return nil, err
	}
	if err := m.CheckShapes(src); err != nil {
		return nil, err
	}
	e, err := m.LoadEmbedding(src)
	if err != nil {
		return nil, err
	}
	n := len(ids[0])
	x := tensor.New(len(ids)*n, m.Hidden)
	for i, s := range ids {
		if err := e.Embed(x.View(i*n, (i+1)*n, 0, m.Hidden), s); err != nil {
			return nil, err
		}
	}
	r := decoder.NewRunner(0)
	for _, p := range m.Blocks {
		b, err := p.Load(src)
		if err != nil {
			return nil, err
		}
		if err := r.Forward(b, x, n, nil); err != nil {
			return nil, err
		}
	}
	h, err := m.LoadHead(src, e)
	if err != nil {
		return nil, err
	}
	out := tensor.New(x.Rows, m.Vocab)
	r.Logits(h, out, x)
	return out, nil
}
