package checkpoint

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// accepts returns the engines that take the layers, and all notes by engine.
func accepts(format string, layers ...layout.Layer) ([]string, map[string]layout.Note) {
	var names []string
	notes := map[string]layout.Note{}
	f, err := Lookup(format)
	if err != nil {
		panic(err)
	}
	for _, n := range Engines(f, layers) {
		notes[n.Engine] = n
		if n.Accepted {
			names = append(names, n.Engine)
		}
	}
	return names, notes
}

func TestEngines(t *testing.T) {
	type set = func(l *layout.Layer)
	scheme := func(bits, group int, sym bool) set {
		return func(l *layout.Layer) { l.Scheme.Bits, l.Scheme.GroupSize, l.Scheme.Symmetric = bits, group, sym }
	}
	for _, c := range []struct {
		name, format string
		set          set
		want         []string
	}{
		{"usual", "gptq", scheme(4, 128, true), []string{"vllm", "transformers", "gptqmodel"}},
		{"usual asymmetric", "gptq", scheme(4, 128, false), []string{"transformers", "gptqmodel"}},
		{"3 bits", "gptq", scheme(3, 128, true), []string{"transformers", "gptqmodel"}},
		{"8 bits", "gptq", scheme(8, 32, true), []string{"vllm", "transformers", "gptqmodel"}},
		{"groups of 16", "gptq_v2", scheme(4, 16, true), []string{"transformers", "gptqmodel"}},
		{"version 1 asymmetric", "gptq_v1", scheme(4, 128, false), []string{"transformers"}},
		{"short last group", "gptq", func(l *layout.Layer) { l.In = 160 }, []string{"transformers", "gptqmodel"}},
		{"group index", "gptq", func(l *layout.Layer) { l.GroupIndex = true }, []string{"vllm", "transformers", "gptqmodel"}},
		{"group index, narrow", "gptq", func(l *layout.Layer) { l.GroupIndex, l.Out = true, 96 }, []string{"transformers", "gptqmodel"}},
		{"ct", "compressed-tensors", scheme(4, 128, true), []string{"vllm", "transformers"}},
		{"ct asymmetric", "compressed-tensors", scheme(4, 128, false), []string{"vllm"}},
		{"ct 3 bits", "compressed-tensors", scheme(3, 128, true), []string{"vllm", "transformers"}},
		{"ct 3 bits asymmetric", "compressed-tensors", scheme(3, 128, false), nil},
		{"ct 3 bits with index", "compressed-tensors", func(l *layout.Layer) { l.Scheme.Bits, l.GroupIndex = 3, true }, []string{"transformers"}},
		{"ct 8 bits asymmetric", "compressed-tensors", scheme(8, 128, false), []string{"vllm"}},
		{"ct 8 bits asymmetric, groups of 32", "compressed-tensors", scheme(8, 32, false), nil},
		{"ct groups of 16", "compressed-tensors", scheme(4, 16, true), []string{"transformers"}},
		{"ct groups of 256", "compressed-tensors", scheme(4, 256, true), []string{"vllm", "transformers"}},
		{"awq", "awq", scheme(4, 128, false), []string{"vllm", "transformers", "gptqmodel", "mlx-lm"}},
		{"awq groups of 16", "awq", scheme(4, 16, false), []string{"transformers", "gptqmodel"}},
		{"awq groups of 256", "awq", scheme(4, 256, false), []string{"vllm", "transformers", "gptqmodel"}},
		{"awq groups of 256, outputs not", "awq", func(l *layout.Layer) { l.Scheme.GroupSize, l.Out = 256, 384 }, []string{"transformers", "gptqmodel"}},
		{"hqq groups of 38", "hqq", func(l *layout.Layer) { l.Scheme.GroupSize, l.In = 38, 152 }, nil},
		{"hqq by rows", "hqq", scheme(4, 64, false), []string{"transformers"}},
		{"hqq", "hqq", func(l *layout.Layer) { l.Scheme.Axis, l.Scheme.Strided = quant.IC, true }, []string{"transformers"}},
		{"gguf", "gguf", scheme(4, 32, true), []string{"llama.cpp", "ollama"}},
		{"dense", "dense", scheme(4, 32, true), []string{"vllm", "transformers", "gptqmodel", "mlx-lm"}},
		{"lowbit", "lowbit", scheme(4, 32, true), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := layout.Layer{Name: "x", Out: 256, In: 512, Scheme: quant.Scheme{Bits: 4, GroupSize: 128, Symmetric: true}}
			c.set(&l)
			got, notes := accepts(c.format, l)
			require.Equal(t, c.want, got)
			require.Len(t, notes, len(EngineNames()))
			for _, n := range notes {
				if !n.Accepted {
					require.NotEmpty(t, n.Reason, n.Engine)
				}
			}
		})
	}
}

func TestEnginesTogether(t *testing.T) {
	layer := func(name string, bits int) layout.Layer {
		return layout.Layer{Name: name, Out: 256, In: 512, DType: safetensors.BF16, Scheme: quant.Scheme{Bits: bits, GroupSize: 128, Symmetric: true}}
	}
	q, k, v, up := "l.0.self_attn.q_proj", "l.0.self_attn.k_proj", "l.0.self_attn.v_proj", "l.0.mlp.down_proj"

	got, notes := accepts("gptq", layer(q, 4), layer(k, 4), layer(v, 4), layer(up, 8))
	require.Equal(t, []string{"vllm", "gptqmodel"}, got)
	require.Contains(t, notes["transformers"].String(), "transformers does not load it: ignores the rules")
	require.Contains(t, notes["vllm"].String(), "vllm loads it: exact in float16")

	got, notes = accepts("gptq", layer(q, 4), layer(k, 8), layer(v, 4), layer(up, 4))
	require.Equal(t, []string{"gptqmodel"}, got)
	require.Contains(t, notes["vllm"].Reason, "loads l.0.self_attn.qkv_proj as one")

	got, _ = accepts("compressed-tensors", layer(q, 4), layer(k, 4), layer(up, 8))
	require.Equal(t, []string{"transformers"}, got, "v_proj is missing")
	got, _ = accepts("awq", layer(q, 4), layer(k, 4), layer(up, 4))
	require.Equal(t, []string{"transformers", "gptqmodel", "mlx-lm"}, got)
	got, _ = accepts("awq", layer(q, 4))
	require.Contains(t, got, "vllm", "a layer by itself")

	_, notes = accepts("gptq", layer(q, 4), layer(k, 3), layer(up, 3))
	require.Contains(t, notes["vllm"].String(), "not 3; format compressed-tensors holds 2 to 8 for it (l.0.self_attn.k_proj and 1 more)")
	_, notes = accepts("gptq", layer(q, 4), layer(k, 3))
	require.Contains(t, notes["vllm"].String(), "(l.0.self_attn.k_proj)")

	dense := func(name string) layout.Layer {
		l := layer(name, 4)
		l.Dense = true
		return l
	}
	const o, o1 = "l.0.self_attn.o_proj", "l.1.self_attn.o_proj"
	got, notes = accepts("gptq", layer(up, 4), dense(o), layer(o1, 4))
	require.Equal(t, []string{"vllm", "gptqmodel"}, got, "dense in one block")
	require.Contains(t, notes["transformers"].String(), "cannot leave a linear dense in one block and quantize it in another (l.0.self_attn.o_proj)")
	require.NotEmpty(t, notes["transformers"].Verified)
	got, _ = accepts("gptq", layer(up, 4), dense(o), dense(o1))
	require.Equal(t, []string{"vllm", "transformers", "gptqmodel"}, got, "dense in every block")
	got, notes = accepts("awq", layer(up, 4), dense(o), dense(o1))
	require.Equal(t, []string{"vllm", "transformers", "mlx-lm"}, got)
	require.Contains(t, notes["gptqmodel"].String(), "without an error (l.0.self_attn.o_proj)")
	got, _ = accepts("compressed-tensors", layer(up, 4), dense(o), layer(o1, 4))
	require.Equal(t, []string{"vllm", "transformers"}, got)

	got, _ = accepts("gptq")
	require.Equal(t, []string{"vllm", "transformers", "gptqmodel"}, got, "a format by itself")
}

// TestFusedShapes: vLLM's plain AWQ kernel sees fused linears.
func TestFusedShapes(t *testing.T) {
	layer := func(name string, out int) layout.Layer {
		return layout.Layer{Name: "l.0.self_attn." + name, Out: out, In: 512, Scheme: quant.Scheme{Bits: 4, GroupSize: 256}}
	}
	got, _ := accepts("awq", layer("q_proj", 256), layer("k_proj", 128), layer("v_proj", 128))
	require.Contains(t, got, "vllm")
	got, notes := accepts("awq", layer("q_proj", 256), layer("k_proj", 64), layer("v_proj", 64))
	require.NotContains(t, got, "vllm")
	require.Contains(t, notes["vllm"].Reason, "256 does not divide 384 of qkv_proj")
}

// TestShards: tensor parallelism cuts inputs between groups only.
func TestShards(t *testing.T) {
	note := func(in, group int) string {
		l := layout.Layer{Name: "l.0.mlp.down_proj", Out: 128, In: in, Scheme: quant.Scheme{Bits: 4, GroupSize: group, Symmetric: true}}
		_, notes := accepts("compressed-tensors", l)
		return notes["vllm"].Reason
	}
	require.Equal(t, "tensor-parallel size up to 1 only: l.0.mlp.down_proj has 231 groups of 128; groups of 32 would do up to 4", note(29568, 128))
	require.Empty(t, note(28672, 128))
	require.Empty(t, note(29568, -1))
	require.Equal(t, "tensor-parallel size up to 1 only: l.0.mlp.down_proj has 3 groups of 32", note(96, 32))
}

// TestTargets holds the advice to the tables: what is proposed for an engine,
// the format holds and the engine takes.
func TestTargets(t *testing.T) {
	for _, engine := range EngineNames() {
		target, err := TargetFor(engine)
		require.NoError(t, err)
		l := layout.Layer{Name: "model.layers.0.mlp.gate_proj", Out: 4096, In: 4096, DType: safetensors.F16, Scheme: target.Scheme}
		f, err := Lookup(target.Format)
		require.NoError(t, err)
		require.NoError(t, f.Check(l))
		got, _ := accepts(target.Format, l)
		require.Contains(t, got, engine)
	}
	_, err := TargetFor("toaster")
	require.ErrorContains(t, err, `unknown engine "toaster": want one of [vllm transformers`)
}
