package arch_test

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/golden"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/tokenizer"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

const (
	testdata  = "../../../testdata"
	tinyllama = testdata + "/tinyllama-2m"
)

// inMemory is a whole model.
type inMemory struct {
	*decoder.Model
	runner    *program.Runner
	embedding *decoder.Embedding
	blocks    []*program.Block
	head      *decoder.Head
}

// loadFolder reads a model folder; config replaces its config.json if it is
// not nil.
func loadFolder(t testing.TB, dir string, config []byte) *inMemory {
	t.Helper()
	var err error
	if config == nil {
		config, err = os.ReadFile(filepath.Join(dir, "config.json"))
		require.NoError(t, err)
	}
	m := &inMemory{runner: program.NewRunner(0)}
	m.Model, err = arch.ParseConfig(config)
	require.NoError(t, err)
	folder, err := safetensors.OpenFolder(dir)
	require.NoError(t, err)
	defer folder.Close()
	src := fileWeights{folder}
	require.NoError(t, m.Fit(src))
	require.NoError(t, m.CheckShapes(src))
	m.embedding, err = m.LoadEmbedding(src)
	require.NoError(t, err)
	for _, p := range m.Blocks {
		b, err := p.Load(src)
		require.NoError(t, err)
		m.blocks = append(m.blocks, b)
	}
	m.head, err = m.LoadHead(src, m.embedding)
	require.NoError(t, err)
	return m
}

// hidden is the residual stream after all blocks for whole windows of ids.
func (m *inMemory) hidden(ids []int32, seqLen int) (*tensor.Matrix, error) {
	x := tensor.New(len(ids), m.Hidden)
	if err := m.embedding.Embed(x, ids); err != nil {
		return nil, err
	}
	for _, b := range m.blocks {
		if err := m.runner.Forward(b, x, seqLen, nil); err != nil {
			return nil, err
		}
	}
	return x, nil
}

// perplexity is exp of the mean NLL inside whole windows of ids, and the
// means of the windows.
func perplexity(t testing.TB, m *inMemory, ids []int32, window int) (float64, []float64) {
	n := len(ids) / window
	x, err := m.hidden(ids[:n*window], window)
	require.NoError(t, err)
	var total float64
	means := make([]float64, n)
	logits := tensor.New(window, m.Vocab)
	nll := make([]float64, window)
	targets := make([]int32, window)
	for w := range n {
		rows := x.View(w*window, (w+1)*window, 0, x.Cols)
		m.head.Logits(m.runner, logits, rows)
		copy(targets, ids[w*window+1:(w+1)*window])
		targets[window-1] = -1
		decoder.NLLs(m.runner, nll, logits, targets)
		for _, v := range nll {
			means[w] += v
		}
		total += means[w]
		means[w] /= float64(window - 1)
	}
	return math.Exp(total / float64(n*(window-1))), means
}

type reference struct {
	Files map[string]struct {
		Tokens int     `json:"tokens"`
		First  []int32 `json:"first_64_ids"`
		FP64   struct {
			Windows    int         `json:"windows"`
			Perplexity float64     `json:"perplexity"`
			Means      []float64   `json:"first_8_window_mean_nll"`
			Logits     []float64   `json:"first_window_last_position_logits_first_32"`
			ArgMax     int         `json:"first_window_last_position_argmax"`
			Residual   [][]float64 `json:"first_window_last_position_residual_first_8_after_embedding_and_each_layer"`
		} `json:"fp64"`
	} `json:"files"`
}

func TestTinyLlama(t *testing.T) {
	const window = 256
	data, err := os.ReadFile(filepath.Join(tinyllama, "reference.json"))
	require.NoError(t, err)
	var ref reference
	require.NoError(t, json.Unmarshal(data, &ref))
	m := loadFolder(t, tinyllama, nil)
	tok, err := tokenizer.Open(tinyllama)
	require.NoError(t, err)

	for _, tt := range []struct {
		name, path string
		windows    int // 0: all, and the perplexity
	}{
		{"heldout.txt", testdata + "/tinyllama-2m-text/heldout.txt", 0},
		{"calibration.txt", testdata + "/tinyllama-2m-text/calibration.txt", 8},
		{"real_heldout_stories_case.txt", "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.path == "" {
				tt.path = golden.Shared(t, "text/real/"+tt.name)
			}
			want := ref.Files[tt.name]
			text, err := os.ReadFile(tt.path)
			require.NoError(t, err)
			ids := tok.Encode(string(text))
			require.Len(t, ids, want.Tokens)
			require.Equal(t, want.First, ids[:64])
			if testing.Short() && tt.windows == 0 {
				tt.windows = len(want.FP64.Means)
			}
			if tt.windows > 0 {
				ids = ids[:tt.windows*window]
			}

			x, err := m.hidden(ids[:window], window)
			require.NoError(t, err)
			logits := tensor.New(1, m.Vocab)
			m.head.Logits(m.runner, logits, x.View(window-1, window, 0, x.Cols))
			last := logits.Row(0)
			for i, v := range want.FP64.Logits {
				require.InDelta(t, v, last[i], 1e-3, "logit %d", i)
			}
			require.Equal(t, want.FP64.ArgMax, slices.Index(last, slices.Max(last)))

			ppl, means := perplexity(t, m, ids, window)
			for i, v := range want.FP64.Means {
				require.InDelta(t, v, means[i], 1e-5, "window %d", i)
			}
			if tt.windows == 0 {
				require.Len(t, means, want.FP64.Windows)
				require.InEpsilon(t, want.FP64.Perplexity, ppl, 1e-5)
			}
		})
	}

	t.Run("residual stream", func(t *testing.T) {
		want := ref.Files["heldout.txt"].FP64.Residual
		require.Len(t, want, m.Layers+1)
		text, err := os.ReadFile(testdata + "/tinyllama-2m-text/heldout.txt")
		require.NoError(t, err)
		ids := tok.Encode(string(text))[:window]
		x := tensor.New(window, m.Hidden)
		require.NoError(t, m.embedding.Embed(x, ids))
		for i := 0; ; i++ {
			for j, v := range want[i] {
				require.InDelta(t, v, x.At(window-1, j), 1e-4, "after layer %d", i-1)
			}
			if i == len(m.blocks) {
				break
			}
			require.NoError(t, m.runner.Forward(m.blocks[i], x, window, nil))
		}
	})
}

// TestGoldenPerplexity computes the unquantized rows of golden/perplexity.json
// by the protocol in that file.
func TestGoldenPerplexity(t *testing.T) {
	data, err := os.ReadFile(golden.Shared(t, "golden/perplexity.json"))
	require.NoError(t, err)
	var table struct {
		Rows []struct {
			Model, Method, Source string
			Perplexity            float64
		} `json:"rows"`
	}
	require.NoError(t, json.Unmarshal(data, &table))
	want := map[string]float64{}
	for _, r := range table.Rows {
		if r.Method == "FP32" && r.Source == "reference" {
			want[r.Model] = r.Perplexity
		}
	}
	for _, tt := range []struct {
		model, text string
		window      int
	}{
		{"tinystories-260k", "tinystories", 512},
		{"tinystories-260k-outliers", "tinystories", 512},
		{"tinyllama-2m", "tinyllama-2m", 256},
	} {
		t.Run(tt.model, func(t *testing.T) {
			if testing.Short() && tt.model != "tinystories-260k" {
				t.Skip("the whole of a long text")
			}
			require.Contains(t, want, tt.model)
			dir := golden.Shared(t, "models/"+tt.model)
			m := loadFolder(t, dir, nil)
			ids := documents(t, m.BOS, dir, golden.Shared(t, "text/"+tt.text+"/heldout.txt"))
			ppl, means := perplexity(t, m, ids, tt.window)
			t.Logf("perplexity %.6f over %d windows of %d tokens, golden %.6f", ppl, len(means), tt.window, want[tt.model])
			require.InEpsilon(t, want[tt.model], ppl, 1e-4)
		})
	}
}

// TestShardedBF16: the same model in two shards, its weights rounded to
// bfloat16, which changes it a little.
func TestShardedBF16(t *testing.T) {
	const window, windows = 512, 8
	dir := golden.Shared(t, "models/tinystories-260k")
	m := loadFolder(t, dir, nil)
	ids := documents(t, m.BOS, dir, golden.Shared(t, "text/tinystories/heldout.txt"))[:windows*window]
	want, _ := perplexity(t, m, ids, window)
	m = loadFolder(t, golden.Shared(t, "models/tinystories-260k-bf16-sharded"), nil)
	got, _ := perplexity(t, m, ids, window)
	require.InEpsilon(t, want, got, 5e-3)
	require.NotEqual(t, want, got)
}

// documents encodes a text by the per-document protocol: what stands between
// blank lines, each after a BOS.
func documents(t testing.TB, bos int, dir, path string) []int32 {
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	tok, err := tokenizer.Open(dir)
	require.NoError(t, err)
	var ids []int32
	for _, doc := range strings.Split(string(text), "\n\n") {
		if doc = strings.Trim(doc, "\n"); doc != "" {
			ids = append(append(ids, int32(bos)), tok.Encode(doc)...)
		}
	}
	return ids
}
