package torchfile

import (
	"math"
	"math/bits"

	"github.com/golowbit/lowbit/safetensors"
)

// maxDims is the largest number of dimensions that torch saves (64 since 2.0).
const maxDims = 64

// storage is a run of bytes in the file, by its key.
type storage struct {
	key   string
	dtype safetensors.DType // "" if the tensors over it say theirs
	elems int64             // bytes where dtype is ""
	skip  int64             // where a view of another storage begins, in elements
}

func (s *storage) width() int64 {
	if s.dtype == "" {
		return 1
	}
	return int64(s.dtype.Bits() / 8)
}

// persistentStorage reads the persistent id of a storage:
// ("storage", class, key, location, element count[, view]).
func persistentStorage(id value) (*storage, error) {
	t, ok := id.(tuple)
	if !ok || len(t) < 5 || t[0] != value("storage") {
		return nil, invalidf("pickle: a persistent id that is no storage: %s", kindText(id))
	}
	class, ok := t[1].(global)
	if !ok {
		return nil, invalidf("pickle: a storage of class %s", kindText(t[1]))
	}
	dtype, ok := class.storage()
	if !ok {
		return nil, invalidf("pickle: a storage of class %s", class)
	}
	key, ok1 := t[2].(string)
	n, ok2 := t[4].(int64)
	if !ok1 || !ok2 || n < 0 {
		return nil, invalidf("pickle: a storage with key %s and %s elements", kindText(t[2]), kindText(t[4]))
	}
	s := &storage{key: key, dtype: dtype, elems: n}
	if n > math.MaxInt64/s.width() {
		return nil, invalidf("pickle: storage %s of %d elements", nameText(key), n)
	}
	if len(t) > 5 && t[5] != nil { // (key of the view, offset, size), long ago
		v, ok := t[5].(tuple)
		if !ok || len(v) != 3 {
			return nil, invalidf("pickle: storage %s: a view of %s", nameText(key), kindText(t[5]))
		}
		skip, ok1 := v[1].(int64)
		size, ok2 := v[2].(int64)
		if !ok1 || !ok2 || skip < 0 || size < 0 || skip > n || size > n-skip {
			return nil, invalidf("pickle: storage %s of %d elements: a view beyond its end", nameText(key), n)
		}
		s.skip = skip
	}
	return s, nil
}

// tensor is a view of a storage. Offset and strides are in elements.
type tensor struct {
	store  *storage
	dtype  safetensors.DType
	offset int64
	shape  []int
	stride []int64
}

// newTensor checks that the tensor lies inside its storage.
func newTensor(s *storage, dtype safetensors.DType, offset, size, stride value) (*tensor, error) {
	shape, ok1 := numbers(size)
	strides, ok2 := numbers(stride)
	off, ok3 := offset.(int64)
	if !ok1 || !ok2 || !ok3 || off < 0 || len(shape) != len(strides) || len(shape) > maxDims {
		return nil, invalidf("pickle: a tensor over storage %s with offset %s, size %s and stride %s", nameText(s.key), kindText(offset), kindText(size), kindText(stride))
	}
	t := &tensor{store: s, dtype: dtype, offset: off, stride: strides, shape: make([]int, len(shape))}
	for i, d := range shape {
		if d > math.MaxInt {
			return nil, invalidf("pickle: a tensor over storage %s of %d elements in a dimension", nameText(s.key), d)
		}
		t.shape[i] = int(d)
	}
	info := safetensors.TensorInfo{DType: dtype, Shape: t.shape}
	if info.Size() < 0 {
		return nil, invalidf("pickle: a tensor over storage %s of shape %v", nameText(s.key), t.shape)
	}
	if info.Elements() == 0 {
		return t, nil
	}
	if s.dtype == "" && s.skip != 0 {
		return nil, invalidf("pickle: a view of the untyped storage %s", nameText(s.key))
	}
	// A storage element is as wide as the tensor's, or a byte.
	width := int64(dtype.Bits()/8) / s.width()
	last, ok := t.last()
	if width == 0 || !ok || last >= (s.elems-s.skip)/width {
		return nil, invalidf("pickle: a tensor of shape %v, strides %v and offset %d does not fit storage %s of %d elements", t.shape, t.stride, off, nameText(s.key), s.elems)
	}
	// Broadcast tensors repeat elements. A small file may not ask for much so.
	const fewRepeats = 1 << 20
	if n := int64(info.Elements()); n > s.elems && n > fewRepeats {
		return nil, invalidf("pickle: a tensor of %d elements over storage %s of %d", n, nameText(s.key), s.elems)
	}
	return t, nil
}

// numbers reads a tuple of numbers that are not negative.
func numbers(v value) ([]int64, bool) {
	t, ok := v.(tuple)
	if !ok {
		return nil, false
	}
	out := make([]int64, len(t))
	for i, x := range t {
		n, ok := x.(int64)
		if !ok || n < 0 {
			return nil, false
		}
		out[i] = n
	}
	return out, true
}

// last is the place of the last element in the storage; ok is false where it
// overflows.
func (t *tensor) last() (int64, bool) {
	last := uint64(t.offset)
	for i, d := range t.shape {
		hi, lo := bits.Mul64(uint64(d-1), uint64(t.stride[i]))
		sum, carry := bits.Add64(last, lo, 0)
		if hi != 0 || carry != 0 || sum > math.MaxInt64 {
			return 0, false
		}
		last = sum
	}
	return int64(last), true
}

// axis is a dimension and the step between its elements.
type axis struct {
	n    int
	step int64
}

// axes drops the dimensions of length 1 and merges those that lie as one,
// outermost first. A contiguous tensor has at most one axis, of step 1.
func (t *tensor) axes() []axis {
	var a []axis
	for i, n := range t.shape {
		step := t.stride[i]
		switch k := len(a) - 1; {
		case n == 1:
		case k >= 0 && a[k].step == int64(n)*step:
			a[k] = axis{a[k].n * n, step}
		default:
			a = append(a, axis{n, step})
		}
	}
	return a
}

func (t *tensor) contiguous() bool {
	a := t.axes()
	return len(a) == 0 || len(a) == 1 && a[0].step == 1
}
