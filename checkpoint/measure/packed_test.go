package measure

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// TestPacked: products from codes give the logits of unpacked layers but for rounding, no layer is unpacked, and
// the plan of memory counts the codes' bytes.
func TestPacked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "packed")
	src := open(t).Source()
	var layers []layout.Layer
	for _, l := range open(t).Model.Linears() {
		layers = append(layers, layout.Layer{Name: l.Name})
	}
	w, err := checkpoint.Create(checkpoint.WriterOptions{Out: path, Source: src, Format: native.Format{}, Layers: layers})
	require.NoError(t, err)
	for i, l := range layers {
		m, err := src.Matrix(l.Name + ".weight")
		require.NoError(t, err)
		q, err := quant.RTN{}.Quantize(t.Context(), m, quant.Scheme{Bits: 3 + i%4, GroupSize: 32, Axis: []quant.Axis{quant.OC, quant.IC}[i%2]}, nil)
		require.NoError(t, err)
		require.NoError(t, w.Put(l.Name, q, nil))
	}
	require.NoError(t, w.Finish(t.Context()))

	ids := [][]int32{{1, 17, 300, 5, 9, 44, 1000, 2, 2, 71, 8, 15}, {4, 8}}
	run := func(packed bool) (*tensor.Matrix, int64, *Model) {
		src, err := checkpoint.Open(path)
		require.NoError(t, err)
		m, err := Open(src, false, 2)
		require.NoError(t, err)
		t.Cleanup(func() { m.Close() })
		if packed {
			m.Packed()
		}
		all := tensor.New(len(ids[0])+len(ids[1]), m.Model.Vocab)
		j := &Job{Models: []*Model{m}, Windows: ids, Logits: func(window, first int, l *tensor.Matrix) error {
			for i := range l.Rows {
				copy(all.Row(window*len(ids[0])+first+i), l.Row(i))
			}
			return nil
		}}
		_, err = j.Run(t.Context())
		require.NoError(t, err)
		sizes := int64(0)
		for _, p := range m.Model.Blocks {
			b, err := p.Load(m.Weights)
			require.NoError(t, err)
			for i := range p.Linears {
				l := b.Linear(i)
				require.Equal(t, packed, l.Weight == nil)
				if l.Weight != nil {
					sizes += 4 * int64(len(l.Weight.Data))
					continue
				}
				q := l.Product.(times).w
				size := 4*int64(len(q.Codes)+len(q.Scales)) + int64(len(q.Zeros))
				require.InEpsilon(t, size, m.Sizes(p.Linears[i].Name), 0.05)
				sizes += size
			}
		}
		return all, sizes, m
	}
	want, floats, _ := run(false)
	got, codes, _ := run(true)
	require.InDeltaSlice(t, want.Data, got.Data, 5e-5)
	require.NotEqual(t, want.Data, got.Data)
	require.Less(t, codes, floats/5) // 3 to 6 bits and parameters of groups of 32
}
