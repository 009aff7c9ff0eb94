package arch_test

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/program"
)

// TestFolds checks for every architecture that scales of channels move where the
// program says: columns of linears divided, what the fold names multiplied, and
// the logits stay.
func TestFolds(t *testing.T) {
	for _, dir := range architectureDirs(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			config, err := os.ReadFile(filepath.Join(dir, "config.json"))
			require.NoError(t, err)
			var ref struct {
				IDs [][]int32 `json:"input_ids"`
				Std float64   `json:"logits_std"`
			}
			data, err := os.ReadFile(filepath.Join(dir, "reference.json"))
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(data, &ref))
			want, _ := logitsOf(t, dir, config, ref.IDs, nil)
			rng := rand.New(rand.NewPCG(1, 2))
			folds := 0
			got, _ := logitsOf(t, dir, config, ref.IDs, func(b *program.Block) {
				for s := range b.Stages {
					if b.Stages[s].Fold != nil {
						folds++
						foldInto(b, s, rng)
					}
				}
			})
			require.NotZero(t, folds)
			for i, v := range want.Data {
				require.InDelta(t, v, got.Data[i], 1e-4*ref.Std)
			}
		})
	}
}

// foldInto moves random powers of two at a stage, by the data of its fold.
func foldInto(b *program.Block, stage int, rng *rand.Rand) {
	s := &b.Stages[stage]
	f := s.Fold
	factors := make([]float32, f.Channels)
	for i := range factors {
		factors[i] = float32(math.Exp2(float64(rng.IntN(5) - 2)))
	}
	for _, i := range s.Linears {
		l := b.Linear(i)
		w := l.Weight.Clone()
		for r := range w.Rows {
			for c, v := range w.Row(r) {
				k := c
				if f.Share != nil {
					k = f.Share[c]
				}
				w.Row(r)[c] = v / factors[k]
			}
		}
		l.Weight = w
	}
	for k, i := range f.Vectors() {
		_, old := b.Vector(i)
		v := append([]float32(nil), old...)
		for c := range v {
			if k == 0 && f.PlusOne {
				v[c] = (1+v[c])*factors[c] - 1
			} else {
				v[c] *= factors[c]
			}
		}
		b.SetVector(i, v)
	}
	if f.Before >= 0 {
		l := b.Linear(f.Before)
		w, bias := l.Weight.Clone(), append([]float32(nil), l.Bias...)
		for i, factor := range factors {
			for c := range w.Row(f.Row0 + i) {
				w.Row(f.Row0 + i)[c] *= factor
			}
			if l.Bias != nil {
				bias[f.Row0+i] *= factor
			}
		}
		if l.Weight = w; l.Bias != nil {
			l.Bias = bias
		}
	}
}

// TestFoldPlaces holds what takes scales in the first block of architectures;
// "" is a stage that offers nothing.
func TestFoldPlaces(t *testing.T) {
	for dir, want := range map[string][]string{
		"llama-llama3": {"input_layernorm", "self_attn.v_proj", "post_attention_layernorm", "mlp.up_proj"},
		"gemma2":       {"input_layernorm", "self_attn.v_proj", "pre_feedforward_layernorm", "mlp.up_proj"},
		"phi3":         {"input_layernorm", "self_attn.qkv_proj", "post_attention_layernorm", "mlp.gate_up_proj"},
		"olmo":         {"", "", "", "mlp.up_proj"}, // norms without gains, values clipped
		"olmo2":        {"", "self_attn.v_proj", "", "mlp.up_proj"},
		"cohere":       {"input_layernorm", "self_attn.v_proj", "mlp.up_proj"},
		"starcoder2":   {"input_layernorm", "self_attn.v_proj", "post_attention_layernorm", ""},
		"nemotron":     {"input_layernorm", "self_attn.v_proj", "post_attention_layernorm", ""},
		"mamba2":       {"norm", "mixer.norm"},
		"mamba":        {"norm", "", "", ""},
		"qwen3-next":   {"input_layernorm", "linear_attn.norm", "post_attention_layernorm", "mlp.up_proj"},
		"apertus":      {"attention_layernorm", "self_attn.v_proj", "feedforward_layernorm", ""},
	} {
		config, err := os.ReadFile(filepath.Join("../../../testdata/architectures", dir, "config.json"))
		require.NoError(t, err)
		m, err := arch.ParseConfig(config)
		require.NoError(t, err)
		var got []string
		for _, s := range m.Blocks[0].Stages {
			if s.Fold == nil {
				got = append(got, "")
			} else {
				got = append(got, s.Fold.Into)
			}
		}
		require.Equal(t, want, got, dir)
	}
}
