package ranges

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

var errNotFinite = errors.New("not finite")

// matrices are a Source.
type matrices map[string]*tensor.Matrix

func (m matrices) Matrix(name string) (*tensor.Matrix, error) { return m[name], nil }

func (m matrices) Largest(name string) (float32, error) {
	var most float32
	for _, v := range m[name].Data {
		if v-v != 0 {
			return 0, errNotFinite
		}
		most = max(most, v, -v)
	}
	return most, nil
}

func TestCheck(t *testing.T) {
	of := func(v float32) *tensor.Matrix { return tensor.FromSlice(1, 4, []float32{0, 1, v, 2}) }
	src := matrices{"small": of(30000), "fits": of(-9e5), "large": of(1e6), "half": of(40000)}
	asymmetric := []quant.Scheme{{Bits: 4, GroupSize: 4}}
	var layers []Layer
	for name := range src {
		layers = append(layers, Layer{Name: name, Tensor: name, Schemes: asymmetric, Half: name == "half"})
	}
	found, err := Check(t.Context(), src, layers, 2)
	require.NoError(t, err)
	require.Len(t, found, 2)
	require.ErrorIs(t, found["large"], quant.ErrScaleRange)
	require.ErrorContains(t, found["half"], "weights up to 40000")

	require.False(t, Beyond(of(32752)))
	require.True(t, Beyond(of(-32753)))
	src["large"].Data[0] /= src["small"].Data[0] * 0
	_, err = Check(t.Context(), src, layers, 1)
	require.ErrorIs(t, err, errNotFinite)
}
