// Package coded shows tensors that are stored as codes of few bits, and scales beside
// them, as the floats that they stand for: what no engine computes on a grid with
// zero-points, as 8-bit floats, or what others hold in layouts of their own.
//
//	fp8, compressed-tensors, modelopt, fbgemm_fp8:
//	  N            F8_E4M3, F8_E5M2 or I8 [.., out, in]
//	  N_scale_inv, N_scale   one, [out, 1], or [.., ceil(out/a), ceil(in/b)]; E8M0 also as U8
//	  N_zero_point           as the scales, of I8 only
//	modelopt NVFP4:
//	  N            U8 [.., out, in/2], first value in the low bits
//	  N_scale      F8_E4M3 [.., out, in/16]
//	  N_scale_2    F32, one
//	mxfp4 of gpt-oss, shown as [experts, in, out]:
//	  N_blocks     U8 [experts, out, in/32, 16], first value in the low bits
//	  N_scales     U8 [experts, out, in/32], E8M0
//	bitsandbytes:
//	  X.weight     U8 [n/2, 1], first value in the high bits; .absmax, .quant_map,
//	               .nested_absmax, .nested_quant_map, .quant_state.bitsandbytes__TYPE (JSON)
//
// A value is the product in float32, in the order in which the libraries multiply. It is
// shown as BF16 where that holds every product, else as F32.
//
// Sources: transformers 5 (integrations finegrained_fp8, mxfp4, bitsandbytes),
// compressed-tensors 0.20, bitsandbytes 0.49, modelopt's NVFP4QTensor.
package coded

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/internal/kept"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/minifloat"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// Source is a source whose coded tensors are shown as floats. It is safe for concurrent
// use; memory is that of the scales and, of tensors that are transposed, of the matrices
// that were read last.
type Source struct {
	layout.Source
	tensors map[string]*codes // by the name under which they are shown
	hidden  map[string]bool   // stored tensors that are parts of others, or serve engines
	names   []string
	kinds   map[string]int

	scales   kept.Last[grid]
	matrices kept.Last[[]byte]
}

// codes is a tensor that is stored as codes.
type codes struct {
	layout.Spec           // as shown
	stored      string    // tensor of the codes
	table       []float32 // value of a byte or, of 16, of a half of one
	highFirst   bool      // of two in a byte the first is in the high bits
	rows, cols  int       // of one matrix; for tensors of more dimensions there are several
	transposed  bool      // shown is each matrix as [cols, rows]
	read        func() (grid, error)
}

// grid are the scales of all matrices: of one, [rows/height, cols/width], rounded up.
type grid struct {
	scales, zeros []float32 // zeros is nil if there are none
	down, across  int
	height, width int
}

// Names implements layout.Source.
func (s *Source) Names() []string { return slices.Clone(s.names) }

// Spec implements layout.Source.
func (s *Source) Spec(name string) (layout.Spec, bool) {
	if c, ok := s.tensors[name]; ok {
		return c.Spec, true
	}
	if s.hidden[name] {
		return layout.Spec{}, false
	}
	return s.Source.Spec(name)
}

// File implements layout.Source.
func (s *Source) File(name string) string {
	if c, ok := s.tensors[name]; ok {
		return s.Source.File(c.stored)
	}
	return s.Source.File(name)
}

// Stored is the size of all tensors as they lie in the files.
func (s *Source) Stored() int64 {
	var n int64
	for _, name := range s.Source.Names() {
		spec, _ := s.Source.Spec(name)
		n += spec.Bytes()
	}
	return n
}

// Kinds tells what was found, "FP8 (7 tensors), NF4 (2 tensors)".
func (s *Source) Kinds() string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(s.kinds)) {
		list = append(list, fmt.Sprintf("%s (%d tensors)", k, s.kinds[k]))
	}
	return strings.Join(list, ", ")
}

// piece is how many values are decoded at a time.
const piece = 1 << 14

// ReadAt implements layout.Source.
func (s *Source) ReadAt(name string, p []byte, off int64) error {
	c, ok := s.tensors[name]
	if !ok {
		return s.Source.ReadAt(name, p, off)
	}
	if size := c.Bytes(); off < 0 || off > size || int64(len(p)) > size-off {
		return layout.TensorError(s, name, "bytes %d to %d of %d asked for", off, off+int64(len(p)), size)
	}
	if !c.transposed {
		return s.decoded(c, p, off)
	}
	size := int64(c.rows) * int64(c.cols) * int64(c.DType.Bits()/8)
	for len(p) > 0 {
		k := off / size
		m, err := s.matrices.Get(fmt.Sprintf("%s %d", name, k), func() ([]byte, error) { return s.transposed(c, k) })
		if err != nil {
			return err
		}
		n := copy(p, m[off-k*size:])
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// decoded fills p with the bytes of c from off on, in the order of the codes.
func (s *Source) decoded(c *codes, p []byte, off int64) error {
	g, err := s.scales.Get(c.Name, c.read)
	if err != nil {
		return err
	}
	size, t := int64(c.DType.Bits()/8), c.wire()
	raw := make([]byte, piece+1)
	for t == wire.F32 && off%size == 0 && wire.Floats(p) != nil { // nothing to convert
		n := min(piece, int64(len(p))/size)
		if err := s.values(c, g, off/size, wire.Floats(p)[:n], raw); err != nil {
			return err
		}
		p, off = p[n*size:], off+n*size
	}
	values := make([]float32, min(piece, (int64(len(p))+size-1)/size+1))
	var edge []byte
	for len(p) > 0 {
		first, skip := off/size, off%size
		n := min(int64(len(values)), (skip+int64(len(p))+size-1)/size)
		if err := s.values(c, g, first, values[:n], raw); err != nil {
			return err
		}
		if skip == 0 && n*size <= int64(len(p)) {
			wire.Encode(p[:n*size], t, values[:n])
			p, off = p[n*size:], off+n*size
			continue
		}
		edge = append(edge[:0], make([]byte, n*size)...)
		wire.Encode(edge, t, values[:n])
		done := copy(p, edge[skip:])
		p, off = p[done:], off+int64(done)
	}
	return nil
}

// values decodes len(dst) values from the first on. raw has room for a byte each, and one.
func (s *Source) values(c *codes, g grid, first int64, dst []float32, raw []byte) error {
	per := int64(1)
	if len(c.table) == 16 {
		per = 2
	}
	from, to := first/per, (first+int64(len(dst))+per-1)/per
	raw = raw[:to-from]
	if err := s.Source.ReadAt(c.stored, raw, from); err != nil {
		return err
	}
	switch {
	case per == 2:
		halves(dst, raw, c.table, int(first%2), c.highFirst)
	case &c.table[0] == &minifloat.E4M3[0]:
		kernel.E4M3ToF32(dst, raw)
	case &c.table[0] == &minifloat.E5M2[0]:
		kernel.E5M2ToF32(dst, raw)
	default:
		table := (*[256]float32)(c.table) // no bounds to check
		for i, b := range raw {
			dst[i] = table[b]
		}
	}
	for len(dst) > 0 {
		row, col := first/int64(c.cols), int(first%int64(c.cols))
		matrix, r := int(row)/c.rows, int(row)%c.rows
		line := (matrix*g.down + r/g.height) * g.across
		n := min(len(dst), c.cols-col)
		g.scale(dst[:n], line, col)
		dst, first = dst[n:], first+int64(n)
	}
	return nil
}

// halves looks up two values a byte, from value at of the first byte on.
func halves(dst []float32, raw []byte, values []float32, at int, highFirst bool) {
	table := (*[16]float32)(values)
	low, high := 0, 4
	if highFirst {
		low, high = 4, 0
	}
	for i := range dst {
		shift := low
		if (at+i)&1 == 1 {
			shift = high
		}
		dst[i] = table[raw[(at+i)>>1]>>shift&15]
	}
}

// scale multiplies a part of a row that begins at column col. line is where the scales of
// the row begin.
func (g *grid) scale(dst []float32, line, col int) {
	for len(dst) > 0 {
		at := col / g.width
		n := min(len(dst), (at+1)*g.width-col)
		s := g.scales[line+at]
		if g.zeros != nil {
			z := g.zeros[line+at]
			for i := range dst[:n] {
				dst[i] -= z
			}
		}
		kernel.Scale(dst[:n], s)
		dst, col = dst[n:], col+n
	}
}

// transposed are the bytes of matrix k as it is shown.
func (s *Source) transposed(c *codes, k int64) ([]byte, error) {
	g, err := s.scales.Get(c.Name, c.read)
	if err != nil {
		return nil, err
	}
	v, raw := make([]float32, c.rows*c.cols), make([]byte, piece+1)
	for at := 0; at < len(v); at += piece {
		part := v[at:min(at+piece, len(v))]
		if err := s.values(c, g, k*int64(len(v))+int64(at), part, raw); err != nil {
			return nil, err
		}
	}
	data := make([]byte, len(v)*c.DType.Bits()/8)
	wire.Encode(data, c.wire(), tensor.FromSlice(c.rows, c.cols, v).T().Data)
	return data, nil
}

// wire is the type as which values are shown.
func (c *codes) wire() wire.Type {
	if c.DType == safetensors.BF16 {
		return wire.BF16
	}
	return wire.F32
}
