package memory

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch"
)

// llama is the shape of a Llama of 1.1 billion parameters.
func llama(t *testing.T) *decoder.Model {
	m, err := arch.ParseConfig([]byte(`{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 22, "vocab_size": 32000,
		"num_attention_heads": 32, "num_key_value_heads": 4, "hidden_size": 2048, "intermediate_size": 5632, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5}`))
	require.NoError(t, err)
	return m
}

// runs are runs of different kinds over the default text.
func runs(t *testing.T) map[string]Calibration {
	c := Calibration{
		Model: llama(t), Tokens: 128 * 2048, SeqLen: 2048,
		Folds: func(int, int) bool { return false },
		Solve: func(out, in int) int64 { return 8*int64(in)*int64(in) + 16*int64(out)*int64(in) },
	}
	best := c
	best.Quantized, best.Paired = true, true
	folded := best
	folded.Folds = func(_, stage int) bool { return stage > 0 }
	block := c
	block.References = true
	return map[string]Calibration{"full": c, "best": best, "folded": folded, "block": block}
}

func TestPlan(t *testing.T) {
	for name, c := range runs(t) {
		all, err := c.Plan(0)
		require.NoError(t, err)
		require.Zero(t, all.InFile, name)
		require.Equal(t, 1, all.Passes, name)
		require.GreaterOrEqual(t, all.Streams, int64(c.Tokens)*4*2048, name)
		least, file := int64(0), all.Streams
		for limit := int64(1 << 30); limit <= 64<<30; limit += 1 << 28 {
			p, err := c.Plan(limit)
			if err != nil {
				require.Zero(t, least, name) // what fits once fits into more
				require.ErrorIs(t, err, ErrTooLittle)
				continue
			}
			if least == 0 {
				least = limit
			}
			require.LessOrEqual(t, p.Peak(), limit, name)
			require.LessOrEqual(t, p.InFile, file, name)
			require.Equal(t, all.Streams, p.Streams, name)
			file = p.InFile
		}
		require.Zero(t, file, name)
		require.Positive(t, least, name)
		require.LessOrEqual(t, least, int64(4<<30), name)
	}
	best := runs(t)["best"]
	p, err := best.Plan(4 << 30)
	require.NoError(t, err)
	require.Contains(t, p.String(), "of streams in a file beside the output")
	require.Contains(t, p.String(), "of 4.00 GiB")
	require.NotContains(t, p.String(), "alone")
	p.Besides("writing", 1)
	require.Equal(t, p.Work(), p.Peak())
	require.NotContains(t, p.String(), "alone")
	p.Besides("evaluation", 5<<30)
	require.EqualValues(t, 5<<30, p.Peak())
	require.Contains(t, p.String(), ", for evaluation alone 5.00 GiB of 4.00 GiB")
	held := best
	held.Held = 1 << 20
	h, err := held.Plan(0)
	require.NoError(t, err)
	all, err := best.Plan(0)
	require.NoError(t, err)
	require.Equal(t, all.Peak()+1<<20, h.Peak())
	_, err = best.Plan(1 << 30)
	require.ErrorContains(t, err, "are needed at least (weights ")
	require.ErrorContains(t, err, "1.00 GiB may be used")
}

// mixture is the shape of a model most of whose weights are those of experts.
func mixture(t *testing.T) *decoder.Model {
	m, err := arch.ParseConfig([]byte(`{"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_hidden_layers": 4, "vocab_size": 32000,
		"num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768,
		"num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": true, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6}`))
	require.NoError(t, err)
	return m
}

// TestByExpert: where a block does not fit, its experts need not all be in memory.
func TestByExpert(t *testing.T) {
	for name, c := range runs(t) {
		c.Model = mixture(t)
		c.Folds = func(int, int) bool { return false }
		whole := c.Model.Blocks[0].Bytes()
		p, err := c.Plan(32 << 30)
		require.NoError(t, err, name)
		require.False(t, p.ByExpert, name)
		_, err = c.Plan(2 << 30)
		require.ErrorIs(t, err, ErrTooLittle, name)
		c.ByExpert = true
		for _, together := range []func(c *Calibration){
			func(c *Calibration) { c.References = true }, func(c *Calibration) { c.Curved = func(string) bool { return false } },
			func(c *Calibration) { c.Folds = func(_, stage int) bool { return stage == 5 } },
		} {
			c := c
			together(&c)
			_, err = c.Plan(2 << 30)
			require.ErrorIs(t, err, ErrTooLittle, name)
		}
		c.References = false
		p, err = c.Plan(2 << 30)
		require.NoError(t, err, name)
		require.True(t, p.ByExpert, name)
		require.LessOrEqual(t, p.Peak(), int64(2<<30))
		require.Less(t, p.Parts[0].Bytes, whole/7, name)
		require.Less(t, p.Experts, p.Parts[0].Bytes, name)
	}
	e := Evaluation{Models: []*decoder.Model{mixture(t)}, Tokens: 1 << 20, SeqLen: 2048, Logits: 64 << 20}
	p, _, err := e.Plan(1 << 30)
	require.NoError(t, err)
	require.True(t, p.ByExpert)
	require.Positive(t, p.Experts)
	p, _, err = e.Plan(8 << 30)
	require.NoError(t, err)
	require.False(t, p.ByExpert)
}

// TestMoments: what comes before and after the work on layers.
func TestMoments(t *testing.T) {
	p, err := Reading(1<<30, 512<<20)
	require.NoError(t, err)
	require.EqualValues(t, 512<<20+base, p.Peak())
	_, err = Reading(1<<30, 1<<30)
	require.ErrorIs(t, err, ErrTooLittle)
	_, err = Reading(10<<20, 1<<20)
	require.NoError(t, err, "told with all that is needed")
	_, err = Reading(0, 1<<40)
	require.NoError(t, err, "no limit is known")

	const weights = 100 << 20
	all, workers := Writing(0, weights, false, 8)
	require.Equal(t, 8, workers)
	bytes, workers := Writing(2<<30, weights, false, 8)
	require.LessOrEqual(t, bytes, int64(2<<30))
	require.Less(t, bytes, all)
	require.Equal(t, 4, workers)
	floats, workers := Writing(1<<20, weights, true, 8)
	require.Equal(t, 1, workers, "one there must be")
	require.Greater(t, floats, int64(4*weights))
	bytes, workers = Writing(1<<30, 0, false, 8)
	require.Equal(t, 8, workers)
	require.EqualValues(t, base, bytes)
}

// TestNeeded: the figure of the error is enough, and not much too large.
func TestNeeded(t *testing.T) {
	for name, c := range runs(t) {
		_, err := c.Plan(1 << 20)
		figure := regexp.MustCompile(`([0-9.]+ .iB) are needed`).FindStringSubmatch(err.Error())
		require.Len(t, figure, 2, name)
		n, err := ParseSize(figure[1])
		require.NoError(t, err)
		_, err = c.Plan(n)
		require.NoError(t, err, name)
		_, err = c.Plan(n - n/50)
		require.ErrorIs(t, err, ErrTooLittle, name)
	}
}

func TestGroups(t *testing.T) {
	b := llama(t).Blocks[0]
	h, wide := int64(4*2048*2048), int64(4*5632*5632)
	require.Equal(t, [][]int{{0, 1, 2, 3}}, Groups(b, 0))
	require.Equal(t, [][]int{{0, 1, 2, 3}}, Groups(b, 3*h+wide))
	require.Equal(t, [][]int{{0, 1, 2}, {3}}, Groups(b, wide))
	require.Equal(t, [][]int{{0, 1}, {2}, {3}}, Groups(b, 2*h))
	require.Equal(t, [][]int{{0}, {1}, {2}, {3}}, Groups(b, 1))
}

func TestEvaluationPlan(t *testing.T) {
	m := llama(t)
	e := Evaluation{Models: []*decoder.Model{m}, Tokens: 1 << 20, SeqLen: 2048, Logits: 64 << 20}
	p, tokens, err := e.Plan(0)
	require.NoError(t, err)
	require.Equal(t, 16<<10, tokens)
	require.Less(t, p.held, int64(1e9), "also with the garbage that there may be")
	small, fewer, err := e.Plan(700 << 20)
	require.NoError(t, err)
	require.Less(t, fewer, tokens)
	require.Zero(t, fewer%2048)
	require.LessOrEqual(t, small.Peak(), int64(700<<20))
	_, _, err = e.Plan(300 << 20)
	require.ErrorIs(t, err, ErrTooLittle)
	e.Models = append(e.Models, m)
	_, both, err := e.Plan(0)
	require.NoError(t, err)
	require.Equal(t, 8<<10, both)

	// Layers of 4 bits that stay packed; the second model's do not.
	bytes := map[string]int64{}
	for _, b := range m.Blocks {
		for _, l := range b.Linears {
			bytes[l.Name] = int64(l.Out) * int64(l.In) / 2
		}
	}
	e.Models, e.Sizes = e.Models[:1], []func(string) int64{func(layer string) int64 { return bytes[layer] }}
	packed, _, err := e.Plan(0)
	require.NoError(t, err)
	require.Less(t, packed.Peak(), p.Peak())
	e.Models = append(e.Models, m)
	mixed, _, err := e.Plan(0)
	require.NoError(t, err)
	require.Greater(t, mixed.Peak(), packed.Peak())
}
