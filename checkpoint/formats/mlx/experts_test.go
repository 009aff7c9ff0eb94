package mlx

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/internal/formattest"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/safetensors"
)

func TestStacks(t *testing.T) {
	of := Format{}.Stacks(json.RawMessage(`{"model_type": "mixtral"}`))
	for name, want := range map[string]string{
		"a.0.block_sparse_moe.experts.12.w1.weight":    "a.0.block_sparse_moe.switch_mlp.gate_proj.weight",
		"a.0.block_sparse_moe.experts.12.w2.scales":    "a.0.block_sparse_moe.switch_mlp.down_proj.scales",
		"a.0.block_sparse_moe.experts.12.w3":           "a.0.block_sparse_moe.switch_mlp.up_proj",
		"a.0.mlp.experts.12.gate_proj.biases":          "a.0.mlp.switch_mlp.gate_proj.biases",
		"a.0.block_sparse_moe.gate.weight":             "",
		"a.0.mlp.experts.gate_up_proj":                 "",
		"a.0.mlp.experts.12.gate_proj.weight_scale":    "",
		"a.0.mlp.shared_experts.12.gate_proj.weight.x": "",
	} {
		stack, at, ok := of(name)
		require.Equal(t, want, stack, name)
		require.Equal(t, want != "", ok)
		if ok {
			require.Equal(t, 12, at)
		}
	}
	require.Nil(t, Format{}.Stacks(json.RawMessage(`{"model_type": "lfm2_moe"}`)))
	require.Nil(t, Format{}.Stacks(nil))
}

// TestUnstack: a stack is as many tensors, whose bytes are its parts; the schemes of
// its module are theirs.
func TestUnstack(t *testing.T) {
	const stack = "a.block_sparse_moe.switch_mlp.up_proj."
	tensor := func(name string, dtype safetensors.DType, shape ...int) layout.Tensor {
		tn := layout.Tensor{Spec: layout.Spec{Name: name, DType: dtype, Shape: shape}}
		tn.Data = make([]byte, tn.Bytes())
		for i := range tn.Data {
			tn.Data[i] = byte(i % 61)
		}
		return tn
	}
	weight := tensor(stack+"weight", safetensors.U32, 3, 2, 24)
	all := []layout.Tensor{weight, tensor(stack+"scales", safetensors.F16, 3, 2, 4), tensor(stack+"biases", safetensors.F16, 3, 2, 4), tensor("b.weight", safetensors.F16, 2, 2)}
	src, err := Format{}.Unstack(formattest.NewMemory(all...))
	require.NoError(t, err)
	require.Len(t, src.Names(), 10)
	const second = "a.block_sparse_moe.experts.1.w3.weight"
	spec, ok := src.Spec(second)
	require.True(t, ok)
	require.Equal(t, layout.Spec{Name: second, DType: safetensors.U32, Shape: []int{2, 24}}, spec)
	data := make([]byte, 100)
	require.NoError(t, src.ReadAt(second, data, 92))
	require.Equal(t, weight.Data[192+92:2*192], data)
	require.ErrorContains(t, src.ReadAt(second, data, 93), second)
	_, ok = src.Spec(weight.Name)
	require.False(t, ok)
	require.Equal(t, "memory.safetensors", src.File(second))

	d, err := Format{}.Open(json.RawMessage(`{"group_size": 64, "bits": 4, "a.block_sparse_moe.switch_mlp.up_proj": {"group_size": 32, "bits": 6}}`), src)
	require.NoError(t, err)
	require.Len(t, d.Layers(), 3)
	require.Equal(t, []int{2, 128, 6, 32}, []int{d.Layers()[1].Out, d.Layers()[1].In, d.Layers()[1].Scheme.Bits, d.Layers()[1].Scheme.GroupSize})

	_, err = Format{}.Unstack(formattest.NewMemory(append(all, tensor(second, safetensors.F16, 2, 2))...))
	require.ErrorContains(t, err, `"`+second+`" in it is there twice`)
	_, err = Format{}.Unstack(formattest.NewMemory(tensor(stack+"weight", safetensors.U32, 0, 2, 24)))
	require.ErrorContains(t, err, "shape [0 2 24]")
	plain := formattest.NewMemory(all[3:]...)
	src, err = Format{}.Unstack(plain)
	require.NoError(t, err)
	require.Equal(t, layout.Source(plain), src)
}
