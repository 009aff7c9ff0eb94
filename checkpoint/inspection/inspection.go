// Package inspection describes models by their headers.
package inspection

import (
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/quant"
)

// Info describes a model.
type Info struct {
	Path         string `json:"path"`
	Format       string `json:"format"`
	Architecture string `json:"architecture"` // "" if the model is of a kind that cannot be run here
	Unsupported  string `json:"unsupported,omitempty"`

	Blocks       int  `json:"blocks"`
	Hidden       int  `json:"hidden"`
	Intermediate int  `json:"intermediate"`
	Heads        int  `json:"heads"`
	KVHeads      int  `json:"kv_heads"`
	HeadDim      int  `json:"head_dim"`
	Vocab        int  `json:"vocab"`
	Context      int  `json:"context"`
	Tied         bool `json:"tied_embeddings"`

	Bytes         int64    `json:"bytes"`      // all tensors
	FileBytes     int64    `json:"file_bytes"` // the files of weights
	Parameters    int64    `json:"parameters"` // quantized weights count as one each
	BitsPerWeight float64  `json:"bits_per_weight,omitempty"`
	Tensors       []Tensor `json:"tensors"`
	Quantized     []Layer  `json:"quantized,omitempty"`
}

// Tensor describes a dense tensor.
type Tensor struct {
	Name  string `json:"name"`
	DType string `json:"dtype"`
	Shape []int  `json:"shape"`
	Bytes int64  `json:"bytes"`
}

// Layer describes a quantized linear.
type Layer struct {
	Name       string       `json:"name"`
	Out        int          `json:"out"`
	In         int          `json:"in"`
	Scheme     quant.Scheme `json:"scheme"`
	RowScale   bool         `json:"row_scale,omitempty"`
	InputScale bool         `json:"input_scale,omitempty"`
	Columns    int          `json:"columns,omitempty"` // inputs in 16 bits
	GroupIndex bool         `json:"group_index,omitempty"`
	Summands   int          `json:"summands,omitempty"` // beside the weight itself
	Bytes      int64        `json:"bytes"`
}

// Of describes the model at path, opened as m; unknown says why it can only be shown as it
// is stored, if that is so. It reads headers, not weights.
func Of(m *checkpoint.Model, path string, unknown error) (*Info, error) {
	info := &Info{Path: path, Format: m.Format().Name(), Bytes: m.Bytes()}
	if kinds := m.Coded(); kinds != "" {
		info.Format += ", read from " + kinds
	}
	if unknown != nil {
		info.Format, info.Unsupported = "unknown", unknown.Error()
	} else if c, err := arch.Open(m); err != nil {
		info.Unsupported = err.Error()
	} else {
		info.Architecture = c.ModelType
		info.Blocks, info.Hidden, info.Intermediate = c.Layers, c.Hidden, c.Intermediate
		info.Heads, info.KVHeads, info.HeadDim = c.Heads, c.KVHeads, c.HeadDim
		info.Vocab, info.Context, info.Tied = c.Vocab, c.MaxPosition, c.Tied
	}
	var err error
	if info.FileBytes, err = checkpoint.WeightBytes(path); err != nil {
		return nil, err
	}
	for _, s := range m.Dense() {
		t := Tensor{Name: s.Name, DType: string(s.DType), Shape: s.Shape, Bytes: s.Bytes()}
		n := int64(1)
		for _, d := range s.Shape {
			n *= int64(d)
		}
		info.Parameters += n
		info.Tensors = append(info.Tensors, t)
	}
	var bytes, weights int64
	for _, l := range m.Layers() {
		q := Layer{Name: l.Name, Out: l.Out, In: l.In, Scheme: l.Scheme, RowScale: l.RowScale, InputScale: l.InputScale, GroupIndex: l.GroupIndex, Summands: l.Summands, Columns: l.Columns}
		for _, s := range m.LayerTensors(l.Name) {
			q.Bytes += s.Bytes()
		}
		bytes += q.Bytes
		weights += int64(l.Out) * int64(l.In)
		info.Quantized = append(info.Quantized, q)
	}
	info.Parameters += weights
	if weights > 0 {
		info.BitsPerWeight = 8 * float64(bytes) / float64(weights)
	}
	return info, nil
}
